"""Verdicts: one state and its reasons for every row of a dataset; no pixel is touched.

Rules come first, in order, then the rungs of duplicates. The files are one per shard of the
dataset, row-aligned with it. Only score columns and pairs are read, so that a changed threshold
costs seconds. In memory: the rules' outcome, packed, the pairs, and the columns of some 200,000
rows, or of the largest shard where that has more. Small shards are judged together; a remote
store's are read and written at once, as what a file costs there is mostly waiting.
"""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation import columns
from curation.columns import Batch
from curation.dedup import (
    ALL,
    EDGES,
    EXACT_RUNG,
    NEAR_RUNG,
    PIXELS_RUNG,
    Duplicates,
    Graph,
    Ids,
    choose,
    edge_nodes,
    graph_of,
    preference,
    ranks,
    read_edges,
    tie_words,
)
from curation.rules import (
    OUTCOME,
    apply_rules,
    check_rules,
    column_names,
    evaluate,
    list_entries,
    needed_columns,
    string_lists,
)
from curation.rules_settings import DUPLICATES, DedupSettings, RuleSettings
from curation.top import top_thresholds, with_thresholds
from infra.artifacts import Part, Spec
from infra.dataset import ROW_BITS, Dataset, index_id, of_shard, part_name, write_table
from infra.filesystem import FilePart, join
from infra.stage import Draft

CODE = 3
OWN = ("status", "reason", "uid", "sha256")  # columns of rows/ that are read with the rules'
VERDICTS = pa.schema(
    [
        ("uid", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("kept", pa.bool_()),
        ("reason", pa.string()),  # the first; null where kept
        ("reasons", pa.list_(pa.string())),  # all; empty where kept
        ("score", pa.float64()),  # what the first reason measured, and
        ("threshold", pa.float64()),  # the bound it missed; null for predicates
        ("twin_uid", pa.string()),  # the row kept in place of a duplicate
        ("twin_similarity", pa.float32()),
    ]
)


def verdicts_draft(
    dataset_url: str,
    dataset_digest: str,
    score_folders: Mapping[str, str],
    edges_digest: str | None,
    rules: Sequence[RuleSettings],
    dedup: DedupSettings | None,
) -> Draft:
    """The verdicts over a dataset's scores; `edges_digest` is None where `dedup` is."""
    settings = {
        "scores": dict(score_folders),
        "edges": edges_digest,
        "rules": [rule.model_dump() for rule in rules],
        "dedup": dedup.model_dump(exclude={"after"}) if dedup else None,
    }
    digests = [columns.folder_digest(folder) for _, folder in sorted(score_folders.items())]
    parents = (dataset_digest, *digests, *([edges_digest] if edges_digest else []))
    spec = Spec("verdicts", "curation.verdicts", settings, parents, CODE)
    return Draft(join(dataset_url, "verdicts", spec.digest), spec)


@dataclass(frozen=True)
class VerdictsWork:
    """Judges all rows of a dataset: one unit of work, `ALL`."""

    url: str
    dataset_url: str
    score_folders: Mapping[str, str]
    edges_url: str | None
    rules: Sequence[RuleSettings]
    dedup: DedupSettings | None

    def __call__(self, value: object, todo: Sequence[str]) -> dict[str, Part]:
        dataset = columns.dataset_at(self.dataset_url)
        shards = sorted(dataset.shards)
        settings = self.dedup or DedupSettings.none()
        nodes, graph = self._graph(settings)
        names = self._check(shards[0]) if shards else []
        thresholds = top_thresholds(self.rules, self.dataset_url, self.score_folders, shards)
        rules = with_thresholds(self.rules, thresholds)
        judged: deque[tuple[Batch, pa.Buffer]] = deque()
        passing, order = np.zeros(len(nodes), bool), KeepOrder(len(nodes))
        for batch, table, own in self._batches(shards, names):
            outcome, values = self._judge(rules, table, own)
            judged.append((batch, packed(outcome)))
            place, rows = batch.find(nodes)
            passing[place] = outcome["reason"].is_null().to_numpy()[rows]
            order.add(values[rows], own.select(["uid", "sha256"]).take(rows))
        rank = ranks(passing, order.preference())
        del order
        duplicates = choose(nodes, graph, rank, settings)
        del nodes, graph, passing, rank
        twins = twin_uids(dataset, duplicates)
        files: list[FilePart] = []
        tally = Tally()
        while judged:
            batch, buffer = judged.popleft()
            place, rows = batch.find(duplicates.ids)
            found = duplicates.part(place)
            outcome = add_duplicates(unpacked(buffer), rows, found, settings)
            identity = identities(dataset, batch)
            table = _verdicts(identity, outcome, rows, twins[place].cast(pa.string()), found)
            tally.add(table)
            files += columns.overlapped(self.url, self._write, batch.parts(table), batch.rows)
        return {"": tally.part(files, thresholds)}

    def _graph(self, settings: DedupSettings) -> tuple[Ids, Graph]:
        """The rows that are in pairs, and who is close to whom among them."""
        edges = EDGES.empty_table()
        if self.edges_url is not None and self.dedup is not None:
            columns.artifact_at(self.edges_url)
            edges = read_edges(self.edges_url)
        nodes = edge_nodes(edges)
        return nodes, graph_of(edges, nodes, settings)

    def _check(self, shard: int) -> list[str]:
        """The columns to read; a rule that cannot run is refused before anything is read."""
        schemas = columns.column_schemas(self.dataset_url, self.score_folders, shard)
        priority = self.dedup.order(column_names(schemas)) if self.dedup else ()
        check_rules(self.rules, schemas, priority)
        # Names are resolved among all columns, so that an ambiguous one stays ambiguous.
        return needed_columns(self.rules, schemas, priority)

    def _batches(
        self, shards: Sequence[int], names: Sequence[str]
    ) -> Iterator[tuple[Batch, pa.Table, pa.Table]]:
        """Batches of the shards, the columns called `names` of each, and its OWN."""
        own = [f"{columns.ROWS_NAME}.{name}" for name in OWN]
        wanted = [*names, *own]
        for batch, table in columns.read_batches(
            self.dataset_url, self.score_folders, shards, wanted
        ):
            yield batch, table, table.select(own).rename_columns(list(OWN))

    def _write(self, part: tuple[int, pa.Table]) -> FilePart:
        shard, table = part
        return write_table(self.url, f"{part_name(shard)}.parquet", table)

    def _judge(
        self, rules: Sequence[RuleSettings], table: pa.Table, own: pa.Table
    ) -> tuple[pa.Table, npt.NDArray[np.float64]]:
        """The rules' outcome for a batch, and the values [rows, k] of the keep order."""
        outcome = keep_rejected(apply_rules(rules, table), own)
        priority = self.dedup.order(table.column_names) if self.dedup else ()
        values = [evaluate("dedup.priority", expression, table) for expression in priority]
        return outcome, np.stack([np.empty(table.num_rows), *values], axis=1)[:, 1:]


def packed(table: pa.Table) -> pa.Buffer:
    """A table in a few bytes a row, where most values are null or equal."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue()


def unpacked(buffer: pa.Buffer) -> pa.Table:
    with pa.ipc.open_stream(buffer) as reader:
        return reader.read_all()


class KeepOrder:
    """The keep order of so many rows, which come shard by shard."""

    def __init__(self, count: int) -> None:
        self._values: list[npt.NDArray[np.float64]] = []  # a column each
        self._ties = np.empty((3, count), np.uint64)
        self._filled = 0

    def add(self, values: npt.NDArray[np.float64], rows: pa.Table) -> None:
        """values: [n, k], the same k each time; rows: their uid and sha256."""
        count = self._ties.shape[1]
        self._values = self._values or [np.empty(count) for _ in values.T]
        place = slice(self._filled, self._filled + len(values))
        for column, part in zip(self._values, values.T, strict=True):
            column[place] = part
        words = tie_words(rows["uid"].to_pylist(), rows["sha256"].to_pylist())
        self._ties[:, place] = words.T
        self._filled = place.stop

    def preference(self) -> npt.NDArray[np.float64]:
        """Of all rows, [n]: see `curation.dedup.preference`."""
        return preference(self._values, self._ties.T)


def keep_rejected(outcome: pa.Table, status: pa.Table) -> pa.Table:
    """Rows that an earlier stage rejected (status, reason) keep its reason and no other."""
    gone = pc.not_equal(status["status"], "ok").combine_chunks()
    if not pc.any(gone).as_py():
        return outcome
    why = pc.coalesce(status["reason"], status["status"]).combine_chunks()
    gone_rows = np.flatnonzero(gone.to_numpy(zero_copy_only=False))
    rows, values = list_entries(outcome["reasons"])
    stays = ~np.isin(rows, gone_rows)
    rows, values = rows[stays], values.filter(pa.array(stays))
    reasons = string_lists(
        np.concatenate([rows, gone_rows]),
        pa.concat_arrays([values, why.filter(gone)]),
        outcome.num_rows,
    )
    reason = pc.if_else(gone, why, outcome["reason"])
    numbers = [pc.if_else(gone, None, outcome[name]) for name in ("score", "threshold")]
    return pa.table([reason, reasons, *numbers], schema=OUTCOME)


def add_duplicates(
    outcome: pa.Table, rows: Ids, found: Duplicates, settings: DedupSettings
) -> pa.Table:
    """Append the duplicates' reasons; `found` is about the rows `rows` of this shard.

    The reason with the certificate comes first: a copy of a row that was itself dropped for its
    near twin goes for that twin, too.
    """
    if not len(rows):
        return outcome
    count = outcome.num_rows
    names = pa.array(DUPLICATES)
    first = np.minimum(found.rung, NEAR_RUNG)
    old_rows, old_values = list_entries(outcome["reasons"])
    exact = rows[found.exact & (first != EXACT_RUNG)]
    pixels = rows[found.pixels & (first != PIXELS_RUNG)]
    codes = np.concatenate([first, np.repeat([EXACT_RUNG, PIXELS_RUNG], [len(exact), len(pixels)])])
    reasons = string_lists(
        np.concatenate([old_rows, rows, exact, pixels]),
        pa.concat_arrays([old_values, names.take(pa.array(codes))]),
        count,
    )
    passed = outcome["reason"].is_null()
    bounds = np.array(settings.thresholds)[found.rung]
    similarity = found.similarity.astype(np.float64)
    return pa.table(
        [
            pc.if_else(passed, names.take(_scatter(rows, first, count)), outcome["reason"]),
            reasons,
            pc.if_else(passed, _scatter(rows, similarity, count), outcome["score"]),
            pc.if_else(passed, _scatter(rows, bounds, count), outcome["threshold"]),
        ],
        schema=OUTCOME,
    )


def identities(dataset: Dataset, batch: Batch) -> pa.Table:
    """uid, shard and row of the rows of a batch."""

    def read(shard: int) -> pa.Table:
        return dataset.rows(shard, ["uid", "shard", "row"])

    return pa.concat_tables(columns.overlapped(dataset.url, read, batch.shards, batch.rows))


def _verdicts(
    identity: pa.Table, outcome: pa.Table, rows: Ids, twins: pa.Array, found: Duplicates
) -> pa.Table:
    count = outcome.num_rows
    index = _scatter(rows, np.arange(len(rows)), count)
    similarity = _scatter(rows, found.similarity, count)
    kept = outcome["reason"].is_null()
    return pa.table(
        [*identity.columns, kept, *outcome.columns, twins.take(index), similarity], schema=VERDICTS
    )


def _scatter(rows: Ids, values: npt.NDArray[Any], count: int) -> pa.Array:
    """An array of `count` values: `values` at `rows`, null elsewhere."""
    spread = np.zeros(count, values.dtype)
    spread[rows] = values
    missing = np.ones(count, bool)
    missing[rows] = False
    return pa.array(spread, mask=missing)


def twin_uids(dataset: Dataset, duplicates: Duplicates) -> pa.Array:
    """The uids of the duplicates' twins, dictionary [n]; reads only shards that hold some."""
    wanted, inverse = np.unique(duplicates.twins, return_inverse=True)

    def read(shard: int) -> pa.Array:
        rows = pa.array(wanted[of_shard(wanted, shard)] - index_id(shard, 0))
        return dataset.rows(shard, ["uid"])["uid"].take(rows).combine_chunks()

    shards = np.unique(wanted >> ROW_BITS).tolist()
    uids = columns.overlapped(dataset.url, read, shards, dataset.shard_rows)
    found = [pa.array([], pa.string()), *uids]
    return pa.DictionaryArray.from_arrays(pa.array(inverse), pa.concat_arrays(found))


class Tally:
    """The counts of verdicts: kept, dropped by first reason, flagged by any reason."""

    def __init__(self) -> None:
        self.kept = 0
        self.dropped: Counter[str] = Counter()
        self.flagged: Counter[str] = Counter()

    def add(self, table: pa.Table) -> None:
        self.kept += int(pc.sum(table["kept"]).as_py() or 0)
        self.dropped.update(_counts(table["reason"].drop_null()))
        self.flagged.update(_counts(list_entries(table["reasons"])[1]))

    def part(self, files: Sequence[FilePart], thresholds: Mapping[str, float]) -> Part:
        """thresholds: of the rules with `top`, by reason."""
        total = self.kept + sum(self.dropped.values())
        extra: dict[str, Any] = {"flagged": dict(sorted(self.flagged.items()))}
        if thresholds:
            extra["thresholds"] = dict(sorted(thresholds.items()))
        return Part(ALL.name, tuple(files), total, self.kept, dict(self.dropped), extra)


def _counts(values: pa.Array) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(values).to_pylist()}
