"""The score columns behind the rules: values for galleries and curves, held-out twins."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.columns import column_schemas, read_columns
from curation.dedup import preference, tie_words
from curation.rules import column_names, evaluate, needed_columns, rule_scores
from curation.rules_settings import RuleSettings
from curation.scores.registry import with_meanings
from flows.report.samples import Samples, Tile, clean
from flows.report.thumbnails import Place
from infra import artifacts, filesystem
from infra.dataset import Dataset
from infra.errors import SluiceError

SIMILARITY, CLOSEST = "contamination.eval_similarity", "contamination.eval_uid"


@dataclass(frozen=True)
class Scores:
    """The score columns that the rules and the keep order read, for the rows of `samples`."""

    samples: Samples

    @cached_property
    def folders(self) -> dict[str, str]:
        """scorer -> folder name under the pool's scores/."""
        scores = self.samples.context.scores
        there = {name: url for name, url in scores.items() if filesystem.exists(url)}
        return {name: url.rstrip("/").rpartition("/")[2] for name, url in there.items()}

    @cached_property
    def schemas(self) -> dict[str, pa.Schema]:
        url, shard = self.samples.dataset.url, self.samples.shards[0]
        return with_meanings(column_schemas(url, self.folders, shard))

    @cached_property
    def columns(self) -> Mapping[str, list[str]]:
        """reason -> the columns its rule reads; without the rules whose scores are not there."""
        found = {}
        for rule in self.samples.rules:
            with contextlib.suppress(SluiceError):
                found[rule.reason] = needed_columns([rule], self.schemas)
        return found

    @cached_property
    def rules(self) -> list[RuleSettings]:
        """The rules that have a score, and whose score can be computed."""
        return [r for r in self.samples.rules if r.score is not None and r.reason in self.columns]

    @cached_property
    def priority_columns(self) -> list[str] | None:
        """The columns the keep order of duplicates reads; None where they are not there."""
        with contextlib.suppress(SluiceError):
            order = self.samples.dedup.order(column_names(self.schemas))
            return needed_columns([], self.schemas, order)
        return None

    @cached_property
    def table(self) -> pa.Table:
        """The columns, each called `scorer.column`, row-aligned with the samples."""
        names = {name for rule in self.rules for name in self.columns[rule.reason]}
        names |= set(self.priority_columns or [])
        if "contamination" in self.folders:
            names |= {SIMILARITY, CLOSEST}
        url, shards = self.samples.dataset.url, self.samples.shards
        return pa.concat_tables(read_columns(url, self.folders, s, names) for s in shards)

    @cached_property
    def values(self) -> Mapping[str, np.ndarray]:
        """reason -> float64 [rows]: the score of each rule with bounds, NaN where it has none."""
        scores = rule_scores(self.rules, self.table)
        return {rule.reason: _floats(scores[rule.reason]) for rule in self.rules}

    @cached_property
    def priority(self) -> np.ndarray | None:
        """float64 [rows]: of duplicates the one with the highest is kept; None if unknown."""
        if self.priority_columns is None:
            return None
        order = self.samples.dedup.order(self.table.column_names)
        values = [evaluate("dedup.priority", expression, self.table) for expression in order]
        uids = [str(uid) for uid in self.samples.uid]
        return preference(values, tie_words(uids, [None] * len(uids)))

    @cached_property
    def leak_reasons(self) -> frozenset[str]:
        """The rules that look for copies of held-out images."""
        return frozenset(
            reason
            for reason, names in self.columns.items()
            if any(name.startswith("contamination.") for name in names)
        )

    @cached_property
    def leak_similarity(self) -> np.ndarray:
        """float64 [rows], to the closest held-out image."""
        return _floats(self.table[SIMILARITY])

    def held_out(self, positions: list[int]) -> dict[int, Tile]:
        """The closest held-out image of each of these rows, where it can be shown."""
        url = self.samples.context.held_out
        artifact = artifacts.load(url) if url else None
        if artifact is None or CLOSEST not in self.table.column_names:
            return {}
        wanted = {i: self.table[CLOSEST][i].as_py() for i in positions}
        uids = pa.array(wanted.values(), pa.string())
        tiles: dict[str, Tile] = {}
        dataset = Dataset(artifact)
        for shard in dataset.shards:
            rows = dataset.rows(shard, ["uid", "row", "caption"])
            for row in rows.filter(pc.field("uid").isin(uids)).to_pylist():
                place = Place(dataset.url, shard, row["row"])
                tiles[row["uid"]] = Tile(place, row["uid"], clean(row["caption"] or ""))
        return {i: tiles[uid] for i, uid in wanted.items() if uid in tiles}


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False).astype(np.float64)
