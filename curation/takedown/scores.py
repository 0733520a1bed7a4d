"""Scores carried over to a successor: the same files, and of rows that went what a row without an
image has.

Only the shards with such rows are written anew; nothing is decoded, and no network runs.
"""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.outcomes import TAKEN_DOWN
from curation.score import Batch
from curation.takedown.rewrite import Shard
from infra import artifacts
from infra.artifacts import Part
from infra.dataset import ROWS, read_table, write_table
from infra.errors import SluiceError
from infra.filesystem import FilePart, join, read_bytes, write_bytes
from infra.moving import take_over

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CarryWork:
    """Carries a shard of score folders. urls: by name of a folder, (its URL, the URL it gets)."""

    urls: Mapping[str, tuple[str, str]]

    def __call__(self, value: Shard, todo: Sequence[str]) -> dict[str, Part]:
        return {folder: self._carried(folder, value) for folder in todo}

    def _carried(self, folder: str, value: Shard) -> Part:
        old, new = self.urls[folder]
        part = _parts(old).get(value.part.name)
        if part is None or part.rows != value.part.rows:
            raise SluiceError(
                f"the scores at {old} are not about the rows of their version",
                "remove that score folder, and run the same command again",
            )
        if not value.gone:
            files = [take_over(old, new, file) for file in part.files]
        else:
            gone = np.zeros(part.rows, np.bool_)
            gone[list(value.gone)] = True
            files = [_without(old, new, file, gone) for file in part.files]
        return Part(part.name, tuple(files), part.rows, part.kept, part.dropped, part.extra)


@lru_cache(maxsize=64)
def _parts(url: str) -> Mapping[str, Part]:
    artifact = artifacts.load(url)
    return {} if artifact is None else {part.name: part for part in artifact.parts}


def _without(old: str, new: str, file: FilePart, gone: Mask) -> FilePart:
    """A file of columns or vectors with nothing of the rows that go."""
    url = join(old, file.path)
    if file.path.endswith(".parquet"):
        scorer = old.rstrip("/").rpartition("/")[2].rpartition("-")[0]
        return write_table(new, file.path, blanked(read_table(url), gone, scorer))
    vectors = np.load(io.BytesIO(read_bytes(url)), allow_pickle=False).copy()
    vectors[gone] = 0
    buffer = io.BytesIO()
    np.save(buffer, vectors, allow_pickle=False)
    return write_bytes(new, file.path, buffer.getvalue())


def blanked(columns: pa.Table, gone: Mask, scorer: str) -> pa.Table:
    """Score columns in which the rows that go have what the scorer gives a rejected row."""
    mask, new = pa.array(gone), []
    yes_or_no = any(pa.types.is_boolean(field.type) for field in columns.schema)
    absent = _of_rejected(scorer) if yes_or_no else {}
    for field in columns.schema:
        column = columns[field.name].combine_chunks()
        plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        kept = pc.if_else(mask, pa.scalar(absent.get(field.name), plain), column.cast(plain))
        new.append(kept.dictionary_encode() if plain is not field.type else kept)
    return pa.table(new, schema=columns.schema)


@lru_cache
def _of_rejected(scorer: str) -> Mapping[str, Any]:
    """What a scorer that needs no model says of a row without an image; nulls of all others."""
    from curation.scores.registry import pixel_scorers

    row = dict.fromkeys(ROWS.names) | {"uid": "0" * 32, "shard": 0, "row": 0, "source": ""}
    rows = pa.Table.from_pylist([row | {"status": "rejected", "reason": TAKEN_DOWN}], schema=ROWS)
    for each in pixel_scorers():
        if each.name == scorer:
            columns = each.score(Batch(rows, [None], [None], {}, [None])).columns
            return {name: values[0] for name, values in columns.to_pydict().items()}
    return {}
