"""Labelled samples of a dataset version, encoded in one pass over its shards."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infra.dataset import Dataset
from infra.errors import SluiceError
from pretrain import meta
from pretrain.data import FORMATS, PIXEL_LIMIT, open_source
from pretrain.encoders import Encoder

BATCH = 256  # decoded images held at a time


@dataclass(frozen=True)
class Labelled:
    """features float32 [n, dimension] with the uid and the label of each row.

    undecodable: samples left out because their image cannot be decoded.
    """

    features: NDArray[np.float32]
    uids: list[str]
    labels: list[str]
    undecodable: int


def encode(url: str, field: str, encoder: Encoder) -> Labelled:
    """Encode every sample of the version at `url`; labels are `field` of its rows' meta.

    Raises SluiceError where a row has no label or no sample is left.
    """
    dataset = Dataset(open_source(url))
    features: list[NDArray[np.float32]] = []
    uids: list[str] = []
    labels: list[str] = []
    batch: list[NDArray[np.uint8]] = []
    undecodable = 0
    for uid, label, data in _samples(dataset, field):
        image = _decode(data)
        if image is None:
            undecodable += 1
            continue
        uids.append(uid)
        labels.append(label)
        batch.append(image)
        if len(batch) == BATCH:
            features.append(encoder.encode_images(batch))
            batch = []
    if batch:
        features.append(encoder.encode_images(batch))
    if not uids:
        raise SluiceError(
            f"{url} has no sample to evaluate on ({undecodable} cannot be decoded)",
            "check the source of this split",
        )
    return Labelled(np.concatenate(features), uids, labels, undecodable)


def _samples(dataset: Dataset, field: str) -> Iterator[tuple[str, str, bytes]]:
    """(uid, label, image bytes) of every sample, in order."""
    for shard in dataset.shards:
        rows = dataset.rows(shard, ["row", "uid", "status", "meta"]).to_pylist()
        wanted = {row["row"]: row for row in rows if row["status"] == "ok"}
        for sample in dataset.samples(shard):
            row = wanted[sample.row]
            label = meta.label(meta.parse(row["meta"]), field)
            if not label:
                raise SluiceError(
                    f"{dataset.url}: sample {row['uid']} (shard {shard}, row {sample.row}) has no "
                    f"field {field!r} in its meta, or an empty one",
                    "evaluation needs a class for every sample: set evaluate.label to the field "
                    "that holds it, or add it to the samples' JSON",
                )
            yield row["uid"], label, sample.image


def _decode(data: bytes) -> NDArray[np.uint8] | None:
    """RGB uint8 [height, width, 3]; None for what cannot be decoded or is absurdly large."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if not 0 < image.width * image.height <= PIXEL_LIMIT:
                return None
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
