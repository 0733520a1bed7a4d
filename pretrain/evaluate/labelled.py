"""Samples with their labels and captions, encoded in one pass."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infra.errors import SluiceError
from pretrain import meta
from pretrain.decoded import FORMATS, PIXEL_LIMIT
from pretrain.encoders import Encoder
from pretrain.evaluate import sources
from pretrain.evaluate.sources import Example

BATCH = 256  # decoded images held at a time


@dataclass(frozen=True)
class Labelled:
    """features float32 [n, dimension] with the uid and the label of each row.

    undecodable: samples left out because their image cannot be decoded. captions: the texts of
    each row. tags: its list of classes, None where it has no such list.
    """

    features: NDArray[np.float32]
    uids: list[str]
    labels: list[str]
    undecodable: int
    captions: list[tuple[str, ...]] = field(default_factory=list)
    tags: list[tuple[str, ...] | None] = field(default_factory=list)


def encode(
    url: str,
    label: str,
    encoder: Encoder,
    required: bool = True,
    captions: str = "captions",
    tags: str = "labels",
) -> Labelled:
    """Encode every sample at `url` (a dataset version, or Parquet with image bytes).

    label, captions, tags: fields of a row's meta with its class, its captions and its list of
    classes. Raises SluiceError where no sample is left or, if `required`, a row has no label.
    """
    features: list[NDArray[np.float32]] = []
    kept: list[tuple[str, str, tuple[str, ...], tuple[str, ...] | None]] = []
    batch: list[NDArray[np.uint8]] = []
    undecodable = 0
    for example in sources.read(url):
        name = meta.label(example.fields, label)
        if required and not name:
            raise _unlabelled(url, example, label)
        image = _decode(example.image)
        if image is None:
            undecodable += 1
            continue
        kept.append((example.uid, name, _captions(example, captions), _list(example, tags)))
        batch.append(image)
        if len(batch) == BATCH:
            features.append(encoder.encode_images(batch))
            batch = []
    if batch:
        features.append(encoder.encode_images(batch))
    if not kept:
        raise SluiceError(
            f"{url} has no sample to evaluate on ({undecodable} cannot be decoded)",
            "check the source of this split",
        )
    uids, names, texts, sets = (list(column) for column in zip(*kept, strict=True))
    return Labelled(np.concatenate(features), uids, names, undecodable, texts, sets)


def images(url: str) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """(uid, RGB uint8 [height, width, 3]) of what `encode` keeps, in the same order."""
    for example in sources.read(url):
        image = _decode(example.image)
        if image is not None:
            yield example.uid, image


def _unlabelled(url: str, example: Example, label: str) -> SluiceError:
    return SluiceError(
        f"{url}: sample {example.uid} ({example.place}) has no field {label!r} in its meta, or an "
        "empty one",
        "evaluation needs a class for every sample: set evaluate.label to the field that holds "
        "it, or add it to the samples' JSON",
    )


def _captions(example: Example, name: str) -> tuple[str, ...]:
    found = _list(example, name) or (example.caption.strip(),)
    return tuple(text for text in found if text)


def _list(example: Example, name: str) -> tuple[str, ...] | None:
    value: Any = example.fields.get(name)
    return tuple(str(entry).strip() for entry in value) if isinstance(value, list) else None


def _decode(data: bytes) -> NDArray[np.uint8] | None:
    """RGB uint8 [height, width, 3]; None for what cannot be decoded or is absurdly large."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if not 0 < image.width * image.height <= PIXEL_LIMIT:
                return None
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
