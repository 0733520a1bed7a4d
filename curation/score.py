"""Scoring: columns and vectors computed once per sample, row-aligned with their dataset.

<dataset>/<version>/scores/<name>-<digest>/columns/00000.parquet    one row per row of rows/
<dataset>/<version>/scores/<name>-<digest>/<vector>/00000.npy       float16 [rows, dim]

Rows that cannot be scored (rejected at ingest, or undecodable) hold nulls and zero vectors.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation import decode
from curation.decode import PIXEL_LIMIT, Pixels
from infra.artifacts import Part, Spec
from infra.dataset import part_name, read_samples, read_table, write_table
from infra.errors import SluiceError
from infra.filesystem import FilePart, join, write_bytes
from infra.samples import Sample
from infra.stage import Draft

BATCH = 256  # samples decoded at once

Vectors = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Batch:
    """Some rows of one shard: the table (schema ROWS), and for each row what could be decoded.

    images: uint8 RGB [height, width, 3] or None; errors: why there is none, where decoding was
    tried. Both are all None for scorers that read no images.
    """

    rows: pa.Table
    images: Sequence[Pixels | None]
    errors: Sequence[str | None]

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
    """One scorer; picklable. `code` is raised when the same input gives other scores."""

    name: ClassVar[str]
    code: ClassVar[int]
    reads_images: ClassVar[bool]
    vectors: ClassVar[tuple[str, ...]]
    columns: ClassVar[pa.Schema]  # known beforehand: rules are checked before any work

    def settings(self) -> Mapping[str, Any]:
        """Whatever else the scores depend on; never where something lies."""
        ...

    def score(self, batch: Batch) -> Scores: ...


def score_draft(
    dataset_url: str, dataset_digest: str, scorer: Scorer, pixel_limit: int = PIXEL_LIMIT
) -> Draft:
    """The score folder `<dataset_url>/scores/<name>-<digest>` to be."""
    settings = {"scorer": scorer.name, "vectors": list(scorer.vectors), **scorer.settings()}
    if scorer.reads_images:
        settings["decode"] = {"pixel_limit": pixel_limit, "code": decode.CODE}
    spec = Spec(
        "scores", f"curation.scores.{scorer.name}", settings, (dataset_digest,), scorer.code
    )
    return Draft(join(dataset_url, "scores", f"{scorer.name}-{spec.digest}"), spec)


@dataclass(frozen=True)
class ScoreWork:
    """Scores one shard with every scorer that is still to do; each image is decoded once.

    The dataset's digest is the last name of its URL, as everywhere in a store.
    """

    dataset_url: str
    scorers: Mapping[str, Scorer]
    pixel_limit: int = PIXEL_LIMIT

    def __call__(self, value: int, todo: list[str]) -> dict[str, Part]:
        """value: the shard's number. todo: names of `scorers`."""
        name = part_name(value)
        rows = read_table(join(self.dataset_url, "rows", f"{name}.parquet"))
        images = any(self.scorers[scorer].reads_images for scorer in todo)
        scored: dict[str, list[Scores]] = {scorer: [] for scorer in todo}
        for batch in self._batches(value, rows, images):
            for scorer in todo:
                scored[scorer].append(_checked(self.scorers[scorer], batch, name))
        return {scorer: self._write(name, scorer, pieces) for scorer, pieces in scored.items()}

    def _batches(self, shard: int, rows: pa.Table, images: bool) -> Iterator[Batch]:
        samples = read_samples(self.dataset_url, shard, rows) if images else iter(())
        waiting = next(samples, None)
        # A shard without rows still gives one batch, from which its empty columns are made.
        for start in range(0, max(rows.num_rows, 1), BATCH):
            piece = rows.slice(start, BATCH)
            decoded: list[tuple[Pixels | None, str | None]] = []
            for row in range(start, start + piece.num_rows):
                if waiting is not None and waiting.row == row:
                    decoded.append(decode.decode(waiting.image, self.pixel_limit))
                    waiting = next(samples, None)
                else:
                    decoded.append((None, None))
            if images:
                _check_samples(self.dataset_url, shard, piece, decoded, waiting)
            yield Batch(piece, [image for image, _ in decoded], [error for _, error in decoded])

    def _write(self, name: str, scorer: str, pieces: Sequence[Scores]) -> Part:
        digest = self.dataset_url.rstrip("/").rpartition("/")[2]
        url = score_draft(self.dataset_url, digest, self.scorers[scorer], self.pixel_limit).url
        columns = pa.concat_tables([piece.columns for piece in pieces]).combine_chunks()
        files = [write_table(url, f"columns/{name}.parquet", columns)]
        for vector in self.scorers[scorer].vectors:
            array = np.concatenate([piece.vectors[vector] for piece in pieces])
            files.append(_write_array(url, f"{vector}/{name}.npy", array.astype(np.float16)))
        return Part(name, tuple(files), columns.num_rows, columns.num_rows)


def _write_array(folder: str, path: str, array: npt.NDArray[np.float16]) -> FilePart:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return write_bytes(folder, path, buffer.getvalue())


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
    decoded: Sequence[tuple[Pixels | None, str | None]],
    waiting: Sample | None,
) -> None:
    """Every row that is "ok" has its sample in the tar, and no other has."""
    for row, status, (image, error) in zip(
        rows["row"].to_pylist(), rows["status"].to_pylist(), decoded, strict=True
    ):
        if (status == "ok") != (image is not None or error is not None):
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
