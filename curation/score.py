"""Scoring: columns and vectors computed once per sample, row-aligned with their dataset.

<dataset>/<version>/scores/<name>-<digest>/columns/00000.parquet    one row per row of rows/
<dataset>/<version>/scores/<name>-<digest>/<vector>/00000.npy       float16 [rows, dim]

Rows that cannot be scored (rejected at ingest, or undecodable) hold nulls and zero vectors.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

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
from infra.filesystem import FilePart, join, write_bytes
from infra.samples import Sample
from infra.stage import Draft

BATCH = 256  # samples decoded at once
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
        images = any(self.scorers[scorer].reads_images for scorer in todo)
        vectors = {
            vector: self._stored(vector, value)
            for vector in sorted({v for name in todo for v in self.scorers[name].reads_vectors})
        }
        scored: dict[str, list[Scores]] = {scorer: [] for scorer in todo}
        for batch in self._batches(value, rows, images, vectors):
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

    def _batches(
        self, shard: int, rows: pa.Table, images: bool, vectors: Mapping[str, Vectors]
    ) -> Iterator[Batch]:
        samples = read_samples(self.dataset_url, shard, rows) if images else iter(())
        waiting = next(samples, None)
        # A shard without rows still gives one batch, from which its empty columns are made.
        for start in range(0, max(rows.num_rows, 1), BATCH):
            piece = rows.slice(start, BATCH)
            loaded: list[Loaded] = []
            for row in range(start, start + piece.num_rows):
                if waiting is not None and waiting.row == row:
                    loaded.append(_loaded(waiting.image, self.pixel_limit))
                    waiting = next(samples, None)
                else:
                    loaded.append(Loaded())
            if images:
                _check_samples(self.dataset_url, shard, piece, loaded, waiting)
            yield Batch(
                piece,
                [each.image for each in loaded],
                [each.error for each in loaded],
                {name: array[start : start + BATCH] for name, array in vectors.items()},
                [each.stored for each in loaded],
            )

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


def _loaded(data: bytes, pixel_limit: int) -> Loaded:
    image, error, orientation = decode.decode_upright(data, pixel_limit)
    return Loaded(image, error, None if image is None else read_stored(data, orientation))


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


def _check_samples(
    url: str,
    shard: int,
    rows: pa.Table,
    loaded: Sequence[Loaded],
    waiting: Sample | None,
) -> None:
    """Every row that is "ok" has its sample in the tar, and no other has."""
    for row, status, each in zip(
        rows["row"].to_pylist(), rows["status"].to_pylist(), loaded, strict=True
    ):
        if (status == "ok") != (each.image is not None or each.error is not None):
            raise SluiceError(
                f"shard {part_name(shard)} of {url}: its tar and its rows disagree at row {row}"
                + (f" (next sample: row {waiting.row})" if waiting else ""),
                "remove that version's folder and run again; the store rebuilds it",
            )


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
