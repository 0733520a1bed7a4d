"""Where the vectors of a dataset version lie, and reading them shard by shard."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from indexes.arrays import HEADER, map_array, read_header
from infra import artifacts, filesystem
from infra.artifacts import Artifact
from infra.dataset import ROW_BITS, Dataset, index_id, part_name
from infra.errors import SluiceError
from infra.filesystem import join

SHARDS_OPEN = 4096  # whose maps are held; a process may have some 65,000
FAR_SHARDS_HELD = 16  # of a remote store, in memory
FEW = 256  # rows of a remote shard that are asked for one by one

Vectors = npt.NDArray[np.float16]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Embedding:
    """One vector of one score folder; row i of a shard's array is row i of its rows/."""

    scores: Artifact
    vector: str
    is_local: bool = field(init=False, repr=False, compare=False)
    _held: Callable[[int], Vectors] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_local", filesystem.is_local(self.scores.url))
        held = SHARDS_OPEN if self.is_local else FAR_SHARDS_HELD
        object.__setattr__(self, "_held", lru_cache(held)(self._open))

    def __reduce__(self) -> tuple[Any, ...]:
        return Embedding, (self.scores, self.vector)  # maps stay in their process

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
        return other if filesystem.exists(other._url(self._first)) else None

    @cached_property
    def dimension(self) -> int:
        """Of its vectors, by those of the first shard, whose header tells."""
        header = None if self.is_local else self._header(self._first)
        return self.shard(int(self._first)).shape[1] if header is None else header[0][1]

    @cached_property
    def _first(self) -> str:
        """The name of the first shard, of perhaps very many; "" of none."""
        return next((part.name for part in self.scores.parts), "")

    def _header(self, part: str) -> tuple[tuple[int, int], np.dtype[Any], int] | None:
        """Shape, type and start of a remote array, of which nothing else is read; None if odd."""
        try:
            head = filesystem.read_ranges(self._url(part), [(0, HEADER)])[0]
            (count, dimension), dtype, start = read_header(head)
        except (FileNotFoundError, ValueError):
            return None
        return ((count, dimension), dtype, start) if dtype == np.float16 else None

    def _url(self, part: str) -> str:
        return self.scores.path(self.vector, f"{part}.npy")

    def shard(self, shard: int) -> Vectors:
        """float16 [rows, dimension] of unit length; all-zero where there is no vector.

        A local file is mapped, so that a few rows cost no more than these.
        """
        return self._held(shard)

    def _open(self, shard: int) -> Vectors:
        url = self._url(part_name(shard))
        try:
            vectors = map_array(url)
        except (FileNotFoundError, ValueError) as error:
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

    def take(self, ids: Ids) -> Vectors:
        """The vectors of rows by index id, float16 [n, dimension], in the order of `ids`."""
        shards = ids >> np.int64(ROW_BITS)
        pieces = [(shard, np.flatnonzero(shards == shard)) for shard in np.unique(shards).tolist()]
        found = [self._rows(shard, ids[places] - index_id(shard, 0)) for shard, places in pieces]
        if not found:
            return np.empty((0, 0), np.float16)
        taken = np.empty((len(ids), found[0].shape[1]), np.float16)
        for (_, places), vectors in zip(pieces, found, strict=True):
            taken[places] = vectors
        return taken

    def halves(self, shard: int, rows: Ids) -> tuple[npt.NDArray[np.uint16], Ids]:
        """An array that holds some rows of a shard as uint16, and where in it they are."""
        if self.is_local:
            return self.shard(shard).view(np.uint16), rows
        return self._rows(shard, rows).view(np.uint16), np.arange(len(rows))

    def _rows(self, shard: int, rows: Ids) -> Vectors:
        """Some rows of a shard; few rows of a remote one are all that is asked for."""
        if self.is_local or len(rows) > FEW:
            return self.shard(shard)[rows]
        header = self._header(part_name(shard))
        if header is None or not len(rows) or rows.max() >= header[0][0]:
            return self.shard(shard)[rows]  # which says what is wrong
        (_, dimension), _, start = header
        places = (start + 2 * dimension * rows).tolist()
        url = self._url(part_name(shard))
        found = filesystem.read_ranges(url, [(at, at + 2 * dimension) for at in places])
        return np.frombuffer(b"".join(found), np.float16).reshape(len(rows), dimension)


def open_version(url: str) -> Dataset:
    """The dataset version at a URL."""
    artifact = artifacts.load(url)
    if artifact is None:
        raise SluiceError(f"no dataset version at {url}", "ingest it first")
    return Dataset(artifact)


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
