"""Where the vectors of a dataset version lie, and reading them shard by shard."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from infra import artifacts, filesystem
from infra.artifacts import Artifact
from infra.dataset import ROW_BITS, Dataset, index_id, part_name
from infra.errors import SluiceError
from infra.filesystem import join

Vectors = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Embedding:
    """One vector of one score folder; row i of a shard's array is row i of its rows/."""

    scores: Artifact
    vector: str

    @property
    def name(self) -> str:
        """Score folder and vector: `clip-0123456789abcdef/image`."""
        return f"{self.scores.url.rpartition('/')[2]}/{self.vector}"

    @property
    def scorer(self) -> str:
        """The scorer's name: `clip`."""
        return self.name.rpartition("/")[0].rpartition("-")[0]

    def sibling(self, vector: str) -> "Embedding | None":
        """Another vector of the same folder, such as "text" beside "image"; None without one."""
        other = Embedding(self.scores, vector)
        first = next((part.name for part in self.scores.parts), "")
        return other if filesystem.exists(other._url(first)) else None

    def _url(self, part: str) -> str:
        return self.scores.path(self.vector, f"{part}.npy")

    def shard(self, shard: int) -> Vectors:
        """float16 [rows, dimension] of unit length; all-zero where there is no vector."""
        url = self._url(part_name(shard))
        try:
            vectors: Any = np.load(io.BytesIO(filesystem.read_bytes(url)), allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError) as error:
            raise SluiceError(
                f"{url} is missing or damaged: {error}",
                "remove its score folder and run the same command again; the store rebuilds it",
            ) from error
        if vectors.ndim != 2 or vectors.dtype != np.float16:
            raise SluiceError(
                f"{url} holds {vectors.dtype} {vectors.shape}, not float16 [rows, dimension]",
                "write embeddings as float16 rows of unit length",
            )
        return vectors

    def take(self, ids: npt.NDArray[np.int64]) -> Vectors:
        """The vectors of rows by index id, float16 [n, dimension], in the order of `ids`."""
        shards = ids >> np.int64(ROW_BITS)
        pieces = [(shard, np.flatnonzero(shards == shard)) for shard in np.unique(shards).tolist()]
        found = [self._mapped(shard)[ids[places] - index_id(shard, 0)] for shard, places in pieces]
        if not found:
            return np.empty((0, 0), np.float16)
        taken = np.empty((len(ids), found[0].shape[1]), np.float16)
        for (_, places), vectors in zip(pieces, found, strict=True):
            taken[places] = vectors
        return taken

    def _mapped(self, shard: int) -> Vectors:
        """As `shard`; a local file is mapped, so that a few rows cost no more than these."""
        url = self._url(part_name(shard))
        if not filesystem.is_local(url):
            return self.shard(shard)
        try:
            mapped: Any = np.load(filesystem.resolve(url)[1], mmap_mode="r", allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError):
            return self.shard(shard)  # which says what is wrong
        sound = mapped.ndim == 2 and mapped.dtype == np.float16
        return mapped if sound else self.shard(shard)


def vectors_of(dataset: Dataset, embedding: str) -> Embedding:
    """Find `scorer/vector` or `score-folder/vector` of a dataset version.

    A curated version keeps no vectors of its own: its rows are the rows of the version it was
    curated from, and its settings name that version and its score folders.
    """
    name, _, vector = embedding.partition("/")
    url, folders = scores_of(dataset)
    scores = artifacts.load(join(url, "scores", folders.get(name, name)))
    if scores is None:
        there = sorted({*folders, *_folders(url)})
        raise SluiceError(
            f"{dataset.url} has no scores {name!r} for the embedding {embedding!r}",
            f"name one of {', '.join(there)}" if there else "run `prefect run curate` first",
        )
    found = Embedding(scores, vector)
    if found.sibling(vector) is None:
        raise SluiceError(
            f"{scores.url} has no vectors {vector!r}", "name a vector that this scorer writes"
        )
    return found


def score_columns(dataset: Dataset) -> dict[str, Artifact]:
    """The score artifacts that belong to a curated version, by scorer name."""
    url, folders = scores_of(dataset)
    found: dict[str, Artifact] = {}
    for name, folder in sorted(folders.items()):
        scores = artifacts.load(join(url, "scores", folder))
        if scores is not None:
            found[name] = scores
    return found


def scores_of(dataset: Dataset) -> tuple[str, dict[str, str]]:
    """The version whose folder holds the scores of `dataset`, and their folders by scorer."""
    match dataset.artifact.settings:
        case {"source": {"dataset": str(name), "version": str(version)}, "scores": folders}:
            return join(store_of(dataset), name, version), dict(folders)
        case _:
            return dataset.url, {}


def all_scores_of(dataset: Dataset) -> tuple[str, dict[str, list[str]]]:
    """As `scores_of`; where the version itself was scored, every folder of each scorer."""
    url, recorded = scores_of(dataset)
    found = {name: [folder] for name, folder in recorded.items()}
    for folder in sorted(_folders(url)) if not recorded else ():
        found.setdefault(folder.rpartition("-")[0], []).append(folder)
    return url, found


def store_of(dataset: Dataset) -> str:
    """The store a dataset version lies in: two folders up."""
    return dataset.url.rstrip("/").rsplit("/", 2)[0]


def _folders(dataset_url: str) -> set[str]:
    manifests = filesystem.list_files(join(dataset_url, "scores", "*", "manifest.json"))
    return {name.split("/")[-2] for name in manifests}
