"""CLIP embeddings of images and captions, and how well the two of a pair fit."""

import hashlib
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.score import Batch, Ready, Scores, filled, spread
from curation.units import BETTER, column
from infra import artifacts, filesystem
from infra.dataset import Dataset
from infra.digests import digest
from infra.errors import SluiceError
from infra.filesystem import join

if TYPE_CHECKING:
    from indexes.encoder import ClipEncoder

OWN_RUNS = "runs/"  # a model under this path of the store has its digest in its path

Array = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class ClipScorer:
    """Vectors `image` and `text`, [rows, embed_dim], and the columns (null without both):

    similarity       float32 -1..1, cosine of image and caption
    margin           float32, nats: the caption's logit minus the log of the mean of exp(logit)
                     over reference captions; 0 where the caption fits no better than they do
                     on average. Logits are similarities times the model's logit scale.
    best_reference   float32 -1..1, the highest similarity to a reference caption

    The margin takes out what the similarity owes to the image alone (some images are close to
    all texts): the image-to-text half of the negCLIPLoss of Wang et al. 2024 (arXiv:2405.19547),
    against fixed captions of trusted pairs in place of the training batch, so that a sample's
    value depends on no other sample. Without a reference dataset, margin and best_reference are
    null.

    model, pretrained: as `indexes.encoder.ClipEncoder.load` takes them; `model` may be a path in
    `store`. The draft reads nothing of a run of our own: its path holds its digest.
    references: how many distinct captions of `reference_url` are taken: those of lowest SHA-256.
    """

    model: str
    pretrained: str | None = None
    store: str | None = None
    references: int = 256
    reference_url: str | None = None
    reference_digest: str | None = None
    precision: Literal["float32", "bfloat16"] = "float32"

    name = "clip"
    code = 3
    reads_images = True
    reads_vectors = ()
    vectors = ("image", "text")
    columns = pa.schema(
        [
            column("similarity", pa.float32(), "cosine", BETTER),
            column("margin", pa.float32(), "nats", BETTER),
            column("best_reference", pa.float32(), "cosine"),
        ]
    )

    def settings(self) -> Mapping[str, Any]:
        own = self.store is not None and self.model.startswith(OWN_RUNS)
        weights = self.pretrained
        low = {} if self.precision == "float32" else {"precision": self.precision}
        return {
            **low,
            "model": self.model if own else content_name(self.model),
            "pretrained": None if weights is None else content_name(weights),
            "references": {
                "count": self.references if self.reference_digest else 0,
                "dataset": self.reference_digest,
                "picked": "lowest SHA-256 of distinct captions",
            },
        }

    def location(self) -> str:
        """The model as the encoder takes it: a name, or the URL of a folder."""
        if self.store is not None and self.model.startswith(OWN_RUNS):
            return join(self.store, self.model)
        return self.model

    def ready(self) -> Ready:
        encoder = load_encoder(self.location(), self.pretrained, self.precision)
        return Ready(encoder.preprocess.fit, encoder.device.type != "cpu")

    def score(self, batch: Batch) -> Scores:
        encoder = load_encoder(self.location(), self.pretrained, self.precision)
        positions, images = batch.decoded()
        valid = batch.valid
        captions: list[str] = batch.rows["caption"].take(pa.array(valid, pa.int64())).to_pylist()
        image = spread(len(batch), positions, encoder.encode_images(images))
        text = spread(len(batch), valid, encode_distinct(encoder, captions))
        similarity = np.einsum("nd,nd->n", image, text)[positions]
        margin = best = np.full(len(positions), np.nan, np.float32)
        if self.reference_url is not None and positions:
            references = load_references(encoder, self.reference_url, self.references)
            others: Array = image[positions] @ references.T
            margin = margins(similarity, others, encoder.logit_scale)
            best = others.max(axis=1)
        values = {"similarity": similarity, "margin": margin, "best_reference": best}
        columns = {
            name: filled(len(batch), positions, value, pa.float32())
            for name, value in values.items()
        }
        return Scores(pa.table(columns), {"image": image, "text": text})


def margins(similarity: Array, others: Array, scale: float) -> Array:
    """similarity [n], similarities to references [n, m] -> margin [n], in nats."""
    logits = others.astype(np.float64) * scale
    top = logits.max(axis=1, keepdims=True)
    mean = np.log(np.exp(logits - top).mean(axis=1)) + top[:, 0]
    return (similarity.astype(np.float64) * scale - mean).astype(np.float32)


def encode_distinct(encoder: "ClipEncoder", texts: Sequence[str]) -> npt.NDArray[np.float16]:
    """Vectors [n, dim] of texts, each distinct one encoded once."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    vectors = encoder.encode_texts(list(places))
    return vectors[[places[text] for text in texts]]


@lru_cache(maxsize=1)
def load_encoder(
    model: str, pretrained: str | None, precision: Literal["float32", "bfloat16"] = "float32"
) -> "ClipEncoder":
    """The model, loaded once per process, onto a GPU where this process sees one.

    Its imports are heavy, so they are made here.
    """
    from indexes.encoder import AUTO, ClipEncoder

    return ClipEncoder.load(model, pretrained, AUTO, precision)


def best_precision(devices: str = "/dev") -> Literal["float32", "bfloat16"]:
    """bfloat16 where this machine has a GPU with it, else float32.

    PyTorch, which takes seconds to import, is asked only where there is the device file of a GPU.
    """
    names = ("nvidia[0-9]*", "kfd", "dxg")  # NVIDIA's, AMD's, and that of WSL
    if not any(any(Path(devices).glob(name)) for name in names):
        return "float32"
    import torch

    native = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if native else "float32"


@lru_cache(maxsize=1)
def load_references(encoder: "ClipEncoder", url: str, count: int) -> Array:
    """The vectors of the reference captions, float32 [at most count, dim]."""
    return encoder.encode_texts(reference_captions(url, count)).astype(np.float32)


def reference_captions(url: str, count: int) -> list[str]:
    """The `count` distinct captions of lowest SHA-256 of the dataset version at `url`."""
    artifact = artifacts.load(url)
    if artifact is None:
        raise SluiceError(f"no dataset version at {url}", "ingest the trusted split first")
    dataset = Dataset(artifact)
    lowest: dict[str, str] = {}
    for shard in dataset.shards:
        rows = dataset.rows(shard, ["caption", "status"]).to_pylist()
        for row in rows:
            if row["status"] == "ok":
                lowest[hashlib.sha256(row["caption"].encode()).hexdigest()] = row["caption"]
        lowest = dict(heapq.nsmallest(count, lowest.items()))
    if not lowest:
        raise SluiceError(f"{url} has no captions", "check the recipe's trusted split")
    return [lowest[key] for key in sorted(lowest)]


@lru_cache(maxsize=16)
def content_name(name: str) -> str:
    """A model's name as it is; a file or folder by what it holds, not by where it lies."""
    url = name.removeprefix("local-dir:")
    if "hf-hub:" in name or not filesystem.exists(url):
        return name
    files = filesystem.list_files(url)
    hashes: list[list[str]] = []
    for file in files:
        with filesystem.open_read(file) as raw:
            sha256 = hashlib.file_digest(raw, "sha256").hexdigest()  # type: ignore[arg-type]
        hashes.append([file.rpartition("/")[2], sha256])
    return f"sha256:{digest(hashes)}"
