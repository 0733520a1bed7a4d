"""Scoring: columns and vectors computed once per sample, row-aligned with their dataset.

<dataset>/<version>/scores/<name>-<digest>/columns/00000.parquet    one row per row of rows/
<dataset>/<version>/scores/<name>-<digest>/<vector>/00000.npy       float16 [rows, dim]

Rows that cannot be scored (rejected at ingest, or undecodable) hold nulls and zero vectors.
"""

import io
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation import decode
from curation.columns import folder_digest, read_vectors, score_folder
from curation.decode import PIXEL_LIMIT, Pixels
from curation.stored import Stored, read_stored
from infra.artifacts import Part, Spec
from infra.dataset import part_name, read_samples, read_table, write_table
from infra.errors import SluiceError
from infra.feeding import fed
from infra.filesystem import FilePart, join, write_bytes
from infra.runner import own_processors
from infra.stage import Draft
from infra.threads import ahead

BATCH = 256  # images scored at once, of at most ROWS rows and about BYTES of pixels
ROWS = 4 * BATCH
BYTES = 2**28
PIECE = 32  # rows that a thread decodes in one go
DECODED_AHEAD, READ_AHEAD = 2 * BATCH // PIECE, 4  # pieces
NORM_TOLERANCE = 5e-3  # of a unit vector's length; float16 leaves a tenth of it
NO_FOLDERS: Mapping[str, str] = {}

Vectors = npt.NDArray[np.floating[Any]]


class Loaded(NamedTuple):
    """What could be decoded of one row: of a rejected one nothing."""

    image: Pixels | None = None
    error: str | None = None
    stored: Stored | None = None


@dataclass(frozen=True)
class Batch:
    """Some rows of one shard: the table (schema ROWS), and for each row what could be decoded.

    images: uint8 RGB [height, width, 3] or None; errors: why there is none, where decoding was
    tried. Both are all None for scorers that read no images. vectors: what other scorers stored,
    by SCORER/VECTOR, float16 [rows, dim], unit or all zero; those that some scorer reads.
    stored: how the file held an image, for those that were decoded.
    """

    rows: pa.Table
    images: Sequence[Pixels | None]
    errors: Sequence[str | None]
    vectors: Mapping[str, Vectors] = field(default_factory=dict[str, Vectors])
    stored: Sequence[Stored | None] = ()  # as long as the others, or empty: nothing is known

    def __len__(self) -> int:
        return len(self.images)

    @property
    def valid(self) -> list[int]:
        """The positions of the rows that are samples: the others were rejected at ingest."""
        return [row for row, status in enumerate(self.rows["status"].to_pylist()) if status == "ok"]

    def decoded(self) -> tuple[list[int], list[Pixels]]:
        """The positions that have an image, and the images."""
        pairs = [(row, image) for row, image in enumerate(self.images) if image is not None]
        return [row for row, _ in pairs], [image for _, image in pairs]


@dataclass(frozen=True)
class Scores:
    """columns: as many rows as the batch. vectors: by name, [rows, dim], unit or all zero."""

    columns: pa.Table
    vectors: Mapping[str, Vectors] = field(default_factory=dict[str, Vectors])


class Scorer(Protocol):
    """One scorer; picklable.

    code: raised when the same input gives other scores. reads_vectors: what it wants of other
    scorers, as SCORER/VECTOR. vectors: what it gives. columns: known beforehand, so that rules are
    checked before any work.
    """

    @property
    def name(self) -> str: ...

    @property
    def code(self) -> int: ...

    @property
    def reads_images(self) -> bool: ...

    @property
    def reads_vectors(self) -> tuple[str, ...]: ...

    @property
    def vectors(self) -> tuple[str, ...]: ...

    @property
    def columns(self) -> pa.Schema: ...

    def settings(self) -> Mapping[str, Any]:
        """Whatever else the scores depend on; never where something lies."""
        ...

    def score(self, batch: Batch) -> Scores: ...


class Ready(NamedTuple):
    """How images are made ready for a network.

    fit: the image that the scorer is given in place of one, smaller and with the same scores;
    called as soon as it is decoded, from any thread. How its file held it is not looked up.
    on_gpu: where the network runs.
    """

    fit: Callable[[Pixels], Pixels]
    on_gpu: bool


@runtime_checkable
class NetworkScorer(Protocol):
    """A scorer whose images are read, decoded and made ready in threads, ahead of its network."""

    def ready(self) -> Ready: ...


def score_draft(
    dataset_url: str,
    dataset_digest: str,
    scorer: Scorer,
    pixel_limit: int = PIXEL_LIMIT,
    folders: Mapping[str, str] = NO_FOLDERS,
) -> Draft:
    """The score folder `<dataset_url>/scores/<name>-<digest>` to be.

    folders: those of the scorers whose vectors it reads, by name. Raises SluiceError where one of
    them is not there.
    """
    settings = {"scorer": scorer.name, "vectors": list(scorer.vectors), **scorer.settings()}
    if scorer.reads_images:
        settings["decode"] = {"pixel_limit": pixel_limit, "code": decode.CODE}
    read = sorted({vector.partition("/")[0] for vector in scorer.reads_vectors})
    digests = [folder_digest(score_folder(folders, name, scorer.name)) for name in read]
    stage = f"curation.scores.{scorer.name}"
    spec = Spec("scores", stage, settings, (dataset_digest, *digests), scorer.code)
    return Draft(join(dataset_url, "scores", f"{scorer.name}-{spec.digest}"), spec)


@dataclass(frozen=True)
class ScoreWork:
    """Scores one shard with every scorer that is still to do; each image is decoded once.

    Where one network alone reads images, up to two batches of them are made ready in threads while
    it works, on a GPU or where this worker has processors to spare. No batch reaches beyond its
    shard, so that a shard's scores do not depend on what was done before it.

    The dataset's digest is the last name of its URL, as everywhere in a store.
    """

    dataset_url: str
    scorers: Mapping[str, Scorer]
    pixel_limit: int = PIXEL_LIMIT
    folders: Mapping[str, str] = field(default_factory=dict[str, str])

    def __call__(self, value: int, todo: list[str]) -> dict[str, Part]:
        """value: the shard's number. todo: names of `scorers`."""
        name = part_name(value)
        rows = read_table(join(self.dataset_url, "rows", f"{name}.parquet"))
        vectors = {
            vector: self._stored(vector, value)
            for vector in sorted({v for name in todo for v in self.scorers[name].reads_vectors})
        }
        scored: dict[str, list[Scores]] = {scorer: [] for scorer in todo}
        with closing(self._loaded(value, rows, todo)) as loaded:
            for batch in fed(_batches(rows, loaded, vectors)):
                for scorer in todo:
                    scored[scorer].append(_checked(self.scorers[scorer], batch, name))
        return {scorer: self._write(name, scorer, pieces) for scorer, pieces in scored.items()}

    def _stored(self, name: str, shard: int) -> Vectors:
        """The vectors SCORER/VECTOR of a shard; SluiceError where they are no embeddings."""
        scorer, _, vector = name.partition("/")
        folder = score_folder(self.folders, scorer, name)
        vectors = read_vectors(self.dataset_url, folder, vector, shard)
        place = join(self.dataset_url, "scores", folder, vector, f"{part_name(shard)}.npy")
        return check_unit(vectors, place)

    def _loaded(
        self, shard: int, rows: pa.Table, todo: Sequence[str]
    ) -> Generator[Loaded, None, None]:
        """What could be decoded of each row, for the scorers that read images."""
        readers = [self.scorers[name] for name in todo if self.scorers[name].reads_images]
        if not readers:
            yield from [Loaded()] * rows.num_rows
            return
        alone = readers[0] if len(readers) == 1 else None
        ready = alone.ready() if isinstance(alone, NetworkScorer) else None
        load = partial(_load, pixel_limit=self.pixel_limit, fit=ready and ready.fit)
        pieces = _read(self.dataset_url, shard, rows)
        threads = max(own_processors() - 1, int(ready.on_gpu)) if ready else 0
        if not threads:
            yield from chain.from_iterable(map(load, pieces))
            return
        count = -(-rows.num_rows // PIECE)
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(threads) as decoders:
            read = ahead(reader, lambda _: next(pieces), range(count), READ_AHEAD)
            yield from chain.from_iterable(ahead(decoders, load, read, DECODED_AHEAD))

    def _write(self, name: str, scorer: str, pieces: Sequence[Scores]) -> Part:
        digest = self.dataset_url.rstrip("/").rpartition("/")[2]
        draft = score_draft(
            self.dataset_url, digest, self.scorers[scorer], self.pixel_limit, self.folders
        )
        url = draft.url
        scored = pa.concat_tables([piece.columns for piece in pieces]).combine_chunks()
        columns = pa.table(scored.columns, schema=self.scorers[scorer].columns)  # with its units
        files = [write_table(url, f"columns/{name}.parquet", columns)]
        for vector in self.scorers[scorer].vectors:
            array = np.concatenate([piece.vectors[vector] for piece in pieces])
            files.append(_write_array(url, f"{vector}/{name}.npy", array.astype(np.float16)))
        return Part(name, tuple(files), columns.num_rows, columns.num_rows)


def check_unit(vectors: Vectors, place: str) -> Vectors:
    """Vectors [n, dim] as they are; SluiceError where one is neither of unit length nor zero.

    Heads and thresholds are made for unit vectors: on others they give numbers that look like
    scores. place: the file, for the message.
    """
    norms = np.linalg.norm(vectors.astype(np.float32), axis=1)
    wrong = np.flatnonzero(~((norms == 0) | (np.abs(norms - 1) <= NORM_TOLERANCE)))
    if len(wrong):
        raise SluiceError(
            f"{place}: row {wrong[0]} has norm {norms[wrong[0]]:.4g}, {len(wrong)} of {len(norms)} "
            "rows are neither of unit length nor zero",
            "normalise the embeddings before they are stored, or remove that score folder and run "
            "again",
        )
    return vectors


def _write_array(folder: str, path: str, array: npt.NDArray[np.float16]) -> FilePart:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return write_bytes(folder, path, buffer.getvalue())


def _read(url: str, shard: int, rows: pa.Table) -> Iterator[list[bytes | None]]:
    """The images of each PIECE rows; None for a row that has none."""
    samples = read_samples(url, shard, rows)
    waiting = next(samples, None)
    ok = [status == "ok" for status in rows["status"].to_pylist()]
    for start in range(0, rows.num_rows, PIECE):
        images: list[bytes | None] = []
        for row in range(start, min(start + PIECE, rows.num_rows)):
            here = waiting is not None and waiting.row == row
            if here != ok[row]:
                raise SluiceError(
                    f"shard {part_name(shard)} of {url}: its tar and its rows disagree at row {row}"
                    + (f" (next sample: row {waiting.row})" if waiting else ""),
                    "remove that version's folder and run again; the store rebuilds it",
                )
            images.append(waiting.image if waiting is not None and here else None)
            waiting = next(samples, None) if here else waiting
        yield images


def _load(
    images: Sequence[bytes | None], pixel_limit: int, fit: Callable[[Pixels], Pixels] | None
) -> list[Loaded]:
    return [Loaded() if data is None else _decoded(data, pixel_limit, fit) for data in images]


def _decoded(data: bytes, pixel_limit: int, fit: Callable[[Pixels], Pixels] | None) -> Loaded:
    image, error, orientation = decode.decode_upright(data, pixel_limit)
    if image is None:
        return Loaded(None, error)
    if fit is not None:
        return Loaded(fit(image))
    return Loaded(image, None, read_stored(data, orientation))


def _batches(
    rows: pa.Table, loaded: Iterable[Loaded], vectors: Mapping[str, Vectors]
) -> Iterator[Batch]:
    """Batches of BATCH images; a shard without rows gives one, which makes its empty columns."""
    start, images, size = 0, 0, 0
    waiting: list[Loaded] = []

    def batch() -> Batch:
        stop = start + len(waiting)
        return Batch(
            rows.slice(start, len(waiting)),
            [each.image for each in waiting],
            [each.error for each in waiting],
            {name: array[start:stop] for name, array in vectors.items()},
            [each.stored for each in waiting],
        )

    for each in loaded:
        waiting.append(each)
        if each.image is not None:
            images, size = images + 1, size + each.image.nbytes
        if images == BATCH or len(waiting) == ROWS or size >= BYTES:
            yield batch()
            start, images, size, waiting = start + len(waiting), 0, 0, []
    if waiting or not rows.num_rows:
        yield batch()


def _checked(scorer: Scorer, batch: Batch, shard: str) -> Scores:
    scores = scorer.score(batch)
    lengths = {"columns": scores.columns.num_rows}
    lengths |= {name: len(vectors) for name, vectors in scores.vectors.items()}
    wrong = [name for name, length in lengths.items() if length != len(batch)]
    declared = set(scores.vectors) == set(scorer.vectors)
    if wrong or not declared or scores.columns.schema != scorer.columns:
        raise SluiceError(
            f"scorer {scorer.name} gave {lengths} rows for {len(batch)} rows of shard {shard}, "
            f"and declares the vectors {list(scorer.vectors)} and the columns "
            f"{scorer.columns.names}",
            "this is a defect of the scorer: it must give one row for each row, as declared",
        )
    return scores


def filled(
    count: int,
    positions: Sequence[int],
    values: Sequence[Any] | npt.NDArray[Any],
    kind: pa.DataType,
) -> pa.Array:
    """A column of `count` rows: `values` at `positions`, null elsewhere; NaN is null too."""
    cells: list[Any] = [None] * count
    plain: list[Any] = values.tolist() if isinstance(values, np.ndarray) else list(values)
    for position, value in zip(positions, plain, strict=True):
        cells[position] = None if value != value else value
    return pa.array(cells, kind)


def spread(count: int, positions: Sequence[int], vectors: npt.NDArray[Any]) -> Vectors:
    """Vectors [len(positions), dim] -> float32 [count, dim], zeros elsewhere."""
    array = np.zeros((count, vectors.shape[1]), np.float32)
    if len(positions):
        array[np.asarray(positions)] = vectors
    return array
