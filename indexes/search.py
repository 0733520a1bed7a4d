"""Open an index and ask it: by text, picture, uid or vector, under SQL conditions."""
# pyarrow has no type stubs:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false

import math
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from indexes import kinds
from indexes.build import INDEX, METADATA, PART
from indexes.embeddings import Embedding, store_of, vectors_of
from indexes.files import read_index
from indexes.hits import Hits
from indexes.metadata import matching_ids
from indexes.pictures import decode, originals, query_pixels
from infra import artifacts, filesystem
from infra.artifacts import Artifact
from infra.dataset import Dataset, open_dataset, read_table, shard_and_row
from infra.errors import SluiceError
from infra.filesystem import join

if TYPE_CHECKING:
    from indexes.encoder import ClipEncoder

SAME = 0.99  # cosine of two encodings of one caption or picture by one model, at least
SELECTIVE = 0.2  # below this share of rows, a condition makes the search look everywhere

Vector = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Picture = str | Path | Image.Image | npt.NDArray[np.uint8]


@lru_cache(maxsize=2)
def load_encoder(model: str, pretrained: str | None) -> "ClipEncoder":
    """The encoder of a score folder, kept for the next query; torch is imported here only."""
    from indexes.encoder import ClipEncoder

    return ClipEncoder.load(model, pretrained)


def open_index(
    dataset: str,
    index: str | None = None,
    *,
    model: str | None = None,
    pretrained: str | None = None,
) -> "Index":
    """See `indexes.open`."""
    store, _, name = dataset.rstrip("/").rpartition("/")
    opened = open_dataset(store or ".", name)
    manifests = filesystem.list_files(opened.artifact.path("index", "*", artifacts.MANIFEST))
    found = [manifest.rsplit("/", 2)[1] for manifest in manifests]
    chosen = [digest for digest in found if digest.startswith(index or "")]
    if not chosen:
        named = f" whose digest starts with {index!r}" if index and found else ""
        raise SluiceError(f"{opened.url} has no index{named}", "run `prefect run index` first")
    if len(chosen) > 1:
        raise SluiceError(
            f"{opened.url} has {len(chosen)} indexes", f"give index= one of {', '.join(chosen)}"
        )
    artifact = artifacts.load(opened.artifact.path("index", chosen[0]))
    assert artifact is not None
    return Index(opened, artifact, model, pretrained)


@dataclass(frozen=True)
class Index:
    """A searchable index of one dataset version. `len` is the number of vectors.

    >>> idx = indexes.open("store/curated")
    >>> hits = idx.search("a red bicycle", k=50, where="width >= 256", min_similarity=0.2)
    """

    dataset: Dataset
    artifact: Artifact
    model: str | None = None
    pretrained: str | None = None
    _faiss: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        files = {file.path: file.sha256 for part in self.artifact.parts for file in part.files}
        index = read_index(self.artifact.path(INDEX), files[INDEX])
        object.__setattr__(self, "_faiss", index)
        if (index.d, index.ntotal) != (self.dimension, len(self)):
            raise SluiceError(
                f"{self.artifact.url} holds {index.ntotal} vectors of {index.d} dimensions, its "
                f"manifest says {len(self)} of {self.dimension}",
                "remove that folder and run `prefect run index` again",
            )

    def __len__(self) -> int:
        return int(self.figures["vectors"])

    @property
    def figures(self) -> dict[str, Any]:
        """Kind, lists, probes, dimension, recall@10 against brute force, bytes a vector."""
        (part,) = [part for part in self.artifact.parts if part.name == PART]
        return dict(part.extra)

    @property
    def name(self) -> str:
        """Dataset and version: `curated@0123456789abcdef`."""
        return "@".join(self.dataset.url.rstrip("/").rsplit("/", 2)[1:])

    @property
    def dimension(self) -> int:
        return int(self.figures["dimension"])

    @property
    def columns(self) -> list[str]:
        """What `where` can ask about."""
        return self.metadata.column_names

    @cached_property
    def metadata(self) -> pa.Table:
        """One row per vector, by ascending id."""
        return read_table(self.artifact.path(METADATA))

    @cached_property
    def _ids(self) -> Ids:
        return self.metadata.column("id").to_numpy()

    @cached_property
    def _embedding(self) -> Embedding:
        return vectors_of(self.dataset, self.figures["embedding"])

    @cached_property
    def encoder(self) -> "ClipEncoder":
        """The model that made this index's vectors; loaded at the first text or picture."""
        settings = self._embedding.scores.settings
        model = self.model or settings.get("model") or "sha256:"
        pretrained = self.pretrained if self.model else settings.get("pretrained")
        if model.startswith("sha256:") or (pretrained or "").startswith("sha256:"):
            raise SluiceError(
                f"the model that made the vectors of {self.name} lies outside its store",
                "name it: indexes.open(..., model=FOLDER) or model=NAME, pretrained=CHECKPOINT; "
                "or search by uid or by vector",
            )
        inside = join(store_of(self.dataset), model)
        encoder = load_encoder(inside if filesystem.exists(inside) else model, pretrained)
        self._check_encoder(encoder, model)
        return encoder

    def _check_encoder(self, encoder: "ClipEncoder", model: str) -> None:
        """Let the model encode a row again: another model's vectors would answer nonsense."""
        row = self.metadata.slice(0, 1).to_pylist()[0]
        texts = self._embedding.sibling("text")
        shard, number = shard_and_row(row["id"])
        if texts is not None and row["caption"]:
            stored = texts.shard(shard)[number]
            again = encoder.encode_texts([row["caption"]])[0]
        else:
            stored = self._embedding.shard(shard)[number]
            data = originals(self.dataset.url, [row["id"]])[row["id"]]
            again = encoder.encode_images([np.asarray(decode(data, row["uid"]))])[0]
        fits = stored.shape == again.shape
        if not fits or float(stored.astype(np.float32) @ again.astype(np.float32)) < SAME:
            raise SluiceError(
                f"the model {model} did not make the vectors of {self.name}: it encodes "
                f"{row['uid']} differently",
                "name the model that the scores were made with, or score and index again",
            )

    def search(
        self,
        query: str | Picture | Vector | list[float] | None = None,
        k: int = 10,
        *,
        image: Picture | None = None,
        uid: str | None = None,
        where: str | None = None,
        min_similarity: float | None = None,
    ) -> Hits:
        """The k rows most similar to a query, best first.

        query: a text; a picture as a Path, PIL image or uint8 RGB array [height, width, 3]; or a
            vector of `dimension` numbers, for which no model is loaded.
        image: a picture, also by a path written as a string.
        uid: a row of this index, which is left out of its own hits.
        where: a SQL condition over `columns`, such as "width >= 64 and concept = 'cat'". Where
            few rows meet it, the search is exact.
        min_similarity: leave out what is less similar (inner product of unit vectors).
        """
        if sum(given is not None for given in (query, image, uid)) != 1:
            raise SluiceError("a search needs one of query, image and uid", "give exactly one")
        if k < 1:
            raise SluiceError(f"k={k} asks for no hits", "give a k of 1 or more")
        vector, asked, own = self._vector(query if image is None else None, image, uid)
        ids = None if where is None else matching_ids(self.metadata, where)
        similarity, found = self._nearest(vector, k + (own is not None), ids)
        keep = found >= 0 if own is None else (found >= 0) & (found != own)
        if min_similarity is not None:
            keep &= similarity >= np.float32(min_similarity)
        if where is not None:
            asked = f"{asked} where {where}"
        return self._hits(asked, similarity[keep][:k], found[keep][:k])

    def vector(self, uid: str) -> Vector:
        """The vector of one row, float32 [dimension]."""
        shard, row = shard_and_row(self._id(uid))
        return self._embedding.shard(shard)[row].astype(np.float32)

    def _id(self, uid: str) -> int:
        row: int = pc.index(self.metadata.column("uid"), uid).as_py()
        if row < 0:
            raise SluiceError(
                f"there is no uid {uid!r} in {self.name}",
                "`prefect run explain` tells what became of a sample",
            )
        return int(self._ids[row])

    def _vector(
        self, query: Any, image: Picture | None, uid: str | None
    ) -> tuple[Vector, str, int | None]:
        """The unit vector of a question, the question in words, and the id it is about."""
        if uid is not None:
            return self.vector(uid), f"more like {uid[:8]}", self._id(uid)
        if isinstance(query, str):
            if not query.strip():
                raise SluiceError("the query is an empty text", "say what to look for")
            return self.encoder.encode_texts([query])[0].astype(np.float32), f"{query!r}", None
        if isinstance(query, Path | Image.Image) or np.ndim(query) == 3:
            image = query
        if image is not None:
            asked = str(image) if isinstance(image, str | Path) else "a picture"
            pixels = query_pixels(image)
            return self.encoder.encode_images([pixels])[0].astype(np.float32), asked, None
        return self._checked(query), "a vector", None

    def _checked(self, query: Any) -> Vector:
        """A user's vector at unit length; SluiceError where it is none of this index."""
        try:
            vector = np.asarray(query, np.float32)
        except (TypeError, ValueError) as error:
            raise SluiceError(
                f"a {type(query).__name__} is no query", "give a text, a picture or a vector"
            ) from error
        if vector.shape != (self.dimension,):
            raise SluiceError(
                f"the query vector has shape {vector.shape}, {self.name} has {self.dimension} "
                "dimensions",
                "use the encoder that made the index: idx.encoder",
            )
        norm = float(np.linalg.norm(vector))
        if not 0 < norm < np.inf:
            raise SluiceError(
                "the query vector is zero or holds values that are not numbers", "give another"
            )
        return vector / np.float32(norm)

    def _nearest(self, vector: Vector, k: int, ids: Ids | None) -> tuple[Vector, Ids]:
        """Best first, ties by id. A condition that few rows meet is worth looking everywhere."""
        count = min(k, len(self) if ids is None else len(ids))
        if not count:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        lists, probes = int(self.figures["lists"]), int(self.figures["probes"])
        share = 1.0 if ids is None else len(ids) / len(self)
        probes = lists if share < SELECTIVE else min(lists, math.ceil(probes / share))
        similarity, found = kinds.search(self._faiss, vector[None], count, probes, ids)
        order = np.lexsort((found[0], -similarity[0]))
        return similarity[0][order], found[0][order]

    def _hits(self, asked: str, similarity: Vector, found: Ids) -> Hits:
        rows = self.metadata.take(pa.array(np.searchsorted(self._ids, found)))
        ranks = pa.array(np.arange(1, len(found) + 1), pa.int32())
        columns = {"rank": ranks, "similarity": pa.array(similarity, pa.float32())}
        columns.update(zip(rows.column_names, rows.columns, strict=True))
        return Hits(self, asked, pa.table(columns))

    def __repr__(self) -> str:
        figures = self.figures
        recall = ", ".join(f"{name} {value:.3f}" for name, value in figures["recall@10"].items())
        return (
            f"Index of {self.name}: {len(self)} vectors of {self.dimension} dimensions "
            f"({figures['embedding']}), {figures['kind']}, recall@10 {recall or 'not measured'}"
        )
