"""The verdicts, captions and rule scores of the pool's rows, read once for all sections."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.rules import list_entries
from curation.rules_settings import DedupSettings, RuleSettings
from curation.top import judged_rules
from flows.report.context import ReportContext
from flows.report.thumbnails import Place
from infra import artifacts
from infra.artifacts import Artifact
from infra.dataset import Dataset, part_name, read_table
from infra.filesystem import join

ROWS = 200_000  # galleries and curves look at this many rows, in whole shards spread evenly
CAPTION = 160  # characters shown
VERDICT_COLUMNS = [
    "uid", "shard", "row", "kept", "reason", "reasons", "score", "threshold",
    "twin_uid", "twin_similarity",
]  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """A picture with what is said below it; `place` is None where there is no picture."""

    place: Place | None
    uid: str
    caption: str
    value: str = ""
    note: str = ""


@dataclass(frozen=True)
class Samples:
    """Rows of some of the pool's shards with their verdicts; everything is row-aligned."""

    context: ReportContext
    dataset: Dataset
    verdicts: Artifact
    shards: Sequence[int]
    table: pa.Table

    @cached_property
    def kept(self) -> np.ndarray:
        return self._array("kept").astype(bool)

    @cached_property
    def selected(self) -> np.ndarray:
        """Kept, and picked by the selection where there is one."""
        return self._array("selected").astype(bool)

    @cached_property
    def reason(self) -> np.ndarray:
        return self._array("reason", "")

    @cached_property
    def uid(self) -> np.ndarray:
        return self._array("uid")

    @cached_property
    def id(self) -> np.ndarray:
        """int64 ids: shard << 20 | row."""
        return self._array("shard").astype(np.int64) << 20 | self._array("row").astype(np.int64)

    @cached_property
    def similarity(self) -> np.ndarray:
        """float64, to the kept twin; NaN where there is none."""
        return self._array("twin_similarity", np.nan).astype(np.float64)

    @cached_property
    def twin(self) -> np.ndarray:
        return self._array("twin_uid", "")

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Where the row of a uid is; the kept one where a uid comes twice."""
        order = np.argsort(self.kept, kind="stable")
        return {str(self.uid[i]): int(i) for i in order}

    @cached_property
    def by_id(self) -> Mapping[int, int]:
        return {int(identifier): place for place, identifier in enumerate(self.id)}

    @cached_property
    def uid_rank(self) -> np.ndarray:
        """int64: the place of each row by its uid, which orders rows of equal scores."""
        rank = np.empty(len(self.uid), np.int64)
        rank[np.argsort(self.uid.astype(str), kind="stable")] = np.arange(len(rank))
        return rank

    @cached_property
    def pictured(self) -> np.ndarray:
        """bool: whether the row holds a picture; of a row rejected at ingest nothing is kept."""
        return self._array("status") == "ok"

    @property
    def rules(self) -> list[RuleSettings]:
        return judged_rules(self.verdicts, self.context.recipe.get("curate"))

    @property
    def dedup(self) -> DedupSettings:
        """No deduplication at all where the verdicts were made without."""
        found = self._settings("dedup")
        return DedupSettings.model_validate(found) if found else DedupSettings.none()

    @property
    def whole(self) -> bool:
        return len(self.shards) == len(self.dataset.shards)

    def dropped_for(self, reason: str) -> np.ndarray:
        """Positions of the rows whose first reason this is."""
        return np.flatnonzero((self.reason == reason) | (self._array("left_out", "") == reason))

    def flagged_for(self, reason: str) -> np.ndarray:
        """Positions of the rows that carry this reason, first or not."""
        rows, values = list_entries(self.table["reasons"])
        return np.unique(rows[np.array(values.to_pylist(), dtype=object) == reason])

    def tile(self, position: int, value: str = "", note: str = "") -> Tile:
        """The picture and words of a row."""
        row = {name: self.table[name][position].as_py() for name in _WORDS}
        place = None
        if row["status"] == "ok":
            place = Place(self.dataset.url, row["shard"], row["row"])
        caption = clean(row["caption"] or ("" if place else row["source"]) or "")
        return Tile(place, row["uid"], caption, value, note)

    def _array(self, name: str, null: Any = None) -> np.ndarray:
        column = self.table[name]
        if null is not None:
            column = pc.fill_null(column, pa.scalar(null, column.type))
        return column.to_numpy()

    def _settings(self, name: str) -> Any:
        """A setting of the verdicts as committed, else as the recipe says."""
        if name in self.verdicts.settings:
            return self.verdicts.settings[name]
        return (self.context.recipe.get("curate") or {}).get(name)


_WORDS = ("status", "shard", "row", "uid", "caption", "source")


def load_samples(context: ReportContext) -> Samples | None:
    """The rows to show and count on; None where there are no verdicts."""
    pool = artifacts.load(context.pool) if context.pool else None
    verdicts = artifacts.load(context.verdicts) if context.verdicts else None
    if pool is None or verdicts is None:
        return None
    dataset = Dataset(pool)
    parts = pool.parts
    shards = spread([int(part.name) for part in parts], [part.rows for part in parts])
    tables = []
    for shard in shards:
        table = read_table(verdicts.path(f"{part_name(shard)}.parquet"), VERDICT_COLUMNS)
        rows = dataset.rows(shard, ["status", "caption", "source"])
        for name in rows.column_names:
            table = table.append_column(name, rows[name])
        tables.append(_add_selection(table, context.selection, shard))
    if not tables:
        return None
    return Samples(context, dataset, verdicts, shards, pa.concat_tables(tables))


def _add_selection(table: pa.Table, url: str | None, shard: int) -> pa.Table:
    """The columns `selected` and `left_out`, as a selection says; without one all kept rows are."""
    selected, reason = table["kept"], pa.nulls(table.num_rows, pa.string())
    if url is not None:
        file = read_table(join(url, f"{part_name(shard)}.parquet"), ["selected", "reason"])
        selected, reason = file.columns
    return table.append_column("selected", selected).append_column("left_out", reason)


def spread(shards: Sequence[int], rows: Sequence[int], limit: int = ROWS) -> list[int]:
    """Whole shards, evenly spread, of about `limit` rows; all of them where they are fewer."""
    total = sum(rows)
    if total <= limit or not shards:
        return list(shards)
    count = max(1, int(len(shards) * limit / total))
    return [shards[i * len(shards) // count] for i in range(count)]


def shuffled(uids: np.ndarray, positions: np.ndarray, count: int) -> list[int]:
    """`count` of the positions, at random but the same ones every time."""
    keys = [zlib.crc32(str(uids[i]).encode()) for i in positions]
    return [int(positions[i]) for i in np.argsort(keys, kind="stable")[:count]]


def clean(text: str) -> str:
    """A caption to show: no control characters, not endless. The template escapes it."""
    shown = "".join(sign if sign.isprintable() else " " for sign in text[: 2 * CAPTION])
    shown = " ".join(shown.split())
    return shown if len(shown) <= CAPTION else shown[: CAPTION - 1] + "…"
