"""The selection: a sampling plan run over the rows that verdicts keep; no pixel is touched.

<dataset>/<version>/selection/<digest>/00000.parquet      row-aligned with rows/ (SELECTION)
<dataset>/<version>/selection/<digest>/state/NAME.parquet what a later plan goes on from

Each selector of the plan sees the rows that those before it left. All draws are keyed by seed,
selector and uid, so that they do not depend on the order of rows, shards or workers.
"""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation import columns, patches, sql
from curation.dedup import ALL
from curation.draws import Bools, Floats, blocks, uid_words
from curation.fingerprint import file_states
from curation.rules import column_names
from curation.selection import concepts, density, hierarchy, quantization, quotas, retrieval, top
from curation.selection.balance import after_plan, selector_figures
from curation.selection.choice import Cells, Choice, Ints, tally
from curation.selection.rows import Rows, parse
from curation.selection.settings import SelectionSettings, Selector
from infra.artifacts import Part, Spec
from infra.dataset import ROW_BITS, of_shard, part_name, read_table, write_table
from infra.errors import SluiceError
from infra.filesystem import FilePart, join
from infra.stage import Draft

CODE = 2
SELECTION = pa.schema(
    [
        ("uid", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("selected", pa.bool_()),
        ("reason", pa.string()),  # the selector that left it out; null where verdicts did, too
        ("probability", pa.float64()),  # the product along the plan; null where verdicts dropped it
        ("cells", pa.list_(pa.string())),  # the concept, value or cell in each selector it came to
        ("patches", pa.binary()),  # of what is selected: a bit for each patch that stays; null: all
    ]
)
CONTINUED = ("clusters", "concepts", "quotas")  # kinds that go on from an older plan's state

SELECTORS: Mapping[str, Callable[..., Choice]] = {
    "concepts": concepts.select,
    "clusters": hierarchy.select,
    "density": density.select,
    "quantization": quantization.select,
    "quotas": quotas.select,
    "retrieval": retrieval.select,
    "top": top.select,
}


def selection_draft(
    dataset_url: str,
    dataset_digest: str,
    score_folders: Mapping[str, str],
    verdicts_digest: str,
    settings: SelectionSettings,
) -> Draft:
    """The selection among what verdicts keep. A file counts by what it holds, not by its place."""
    plan: list[dict[str, Any]] = []
    for selector in settings.plan:
        states = {name: _file_state(selector.reason, url) for name, url in selector.files.items()}
        plan.append(selector.model_dump(mode="json") | states)
    known = {
        "verdicts": verdicts_digest,
        "scores": dict(score_folders),
        "plan": plan,
        "seed": settings.seed,
        "after": settings.after,
    }
    digests = [columns.folder_digest(folder) for _, folder in sorted(score_folders.items())]
    parents = (dataset_digest, verdicts_digest, *digests)
    spec = Spec("selection", "curation.selection", known, parents, CODE)
    return Draft(join(dataset_url, "selection", spec.digest), spec)


def older_url(store: str, settings: SelectionSettings) -> str | None:
    """Where the selection is that this one goes on from."""
    return columns.older_at(store, settings.after, "selection")


def _file_state(reason: str, url: str) -> str:
    try:
        return file_states([url])[0][1]
    except FileNotFoundError as error:
        raise SluiceError(f"selector {reason}: there is no file {url}", "correct it") from error


def check_plan(
    settings: SelectionSettings, schemas: Mapping[str, pa.Schema], vectors: Sequence[str]
) -> None:
    """Refuse a plan over columns or vectors that are not there, naming those that are.

    schemas: the columns by scorer; vectors: SCORER/VECTOR.
    """
    names = column_names(schemas)
    kinds = [field.type for schema in schemas.values() for field in schema]
    table = pa.table({name: pa.array([], kind) for name, kind in zip(names, kinds, strict=True)})
    chosen = settings.patches
    if chosen is not None and f"{chosen.scorer}/{patches.VECTOR}" not in vectors:
        raise SluiceError(
            f"the plan leaves out patches by the scorer {chosen.scorer!r}, which is none for it",
            f"add `curate.scores.{chosen.scorer}: {{kind: patches}}`",
        )
    for selector in settings.plan:
        owner = f"selector {selector.reason}"
        for name, expression in selector.expressions.items():
            parsed = parse(owner, expression, names)
            if name == "score":
                sql.check_types([(parsed, "number")], table)
        if selector.vector is not None and selector.vector not in vectors:
            raise SluiceError(
                f"{owner} asks for the vectors {selector.vector!r}",
                f"there are {', '.join(sorted(vectors))}",
            )


@dataclass(frozen=True)
class SelectionWork:
    """Runs the plan over all rows that verdicts keep: one unit of work, `ALL`."""

    url: str
    dataset_url: str
    score_folders: Mapping[str, str]
    verdicts_url: str
    settings: SelectionSettings
    after_url: str | None = None  # the selection that this one goes on from

    def __call__(self, value: object, todo: Sequence[str]) -> dict[str, Part]:
        rows = self._kept()
        outcome = Outcome(len(rows))
        files: list[FilePart] = []
        for selector in self.settings.plan:
            coming = rows.only(outcome.selected)
            key = (self.settings.seed, "selection", selector.reason)
            choice = SELECTORS[selector.kind](selector, coming, key, **self._before(selector))
            outcome.add(selector.reason, selector.kind, choice)
            if choice.state is not None:
                files.append(write_table(self.url, _state_path(selector), choice.state))

        def write(shard: int) -> FilePart:
            table = self._with_patches(shard, outcome.table(self._identity(shard), rows.ids))
            return write_table(self.url, f"{part_name(shard)}.parquet", table)

        files += columns.overlapped(self.url, write, rows.dataset.shards, rows.dataset.shard_rows)
        dropped = outcome.reasons_given()
        kept = int(outcome.selected.sum())
        extra = {"selectors": outcome.whole()}
        return {"": Part(ALL.name, tuple(files), len(rows), kept, dropped, extra)}

    def _with_patches(self, shard: int, table: pa.Table) -> pa.Table:
        """A shard's table with the masks of what is selected, where the plan asks for them."""
        none, chosen = pa.nulls(table.num_rows, pa.binary()), self.settings.patches
        if chosen is None or not table.num_rows:
            return table.append_column(SELECTION.field("patches"), none)
        folder = columns.score_folder(self.score_folders, chosen.scorer, "curate.selection")
        importance = columns.read_vectors(self.dataset_url, folder, patches.VECTOR, shard)
        found = patches.masks(importance, chosen.keep)
        return table.append_column(
            SELECTION.field("patches"), pc.if_else(table["selected"], found, none)
        )

    def _before(self, selector: Selector) -> dict[str, pa.Table]:
        """The state that an older plan left of this selector, as an argument."""
        if self.after_url is None or selector.kind not in CONTINUED:
            return {}
        try:
            return {"before": read_table(join(self.after_url, _state_path(selector)))}
        except FileNotFoundError as error:
            raise SluiceError(
                f"selector {selector.reason}: {self.after_url} left nothing to go on from by that "
                "name",
                "call it as it was called there, or leave out `after`",
            ) from error

    def _identity(self, shard: int) -> pa.Table:
        url = join(self.verdicts_url, f"{part_name(shard)}.parquet")
        return read_table(url, ["uid", "shard", "row", "kept"])

    def _kept(self) -> Rows:
        dataset = columns.dataset_at(self.dataset_url)
        kept = columns.artifact_at(self.verdicts_url).totals["kept"]
        ids, uids, start = np.empty(kept, np.int64), np.empty((kept, 2), np.uint64), 0
        shards = sorted(dataset.shards)
        tables = columns.overlapped(dataset.url, self._identity, shards, dataset.shard_rows)
        for shard, table in zip(shards, tables, strict=True):
            table = table.filter(table["kept"])
            part = slice(start, start + table.num_rows)
            ids[part] = table["row"].to_numpy().astype(np.int64) | shard << ROW_BITS
            uids[part] = uid_words(table["uid"])
            start = part.stop
        return Rows(dataset, self.score_folders, ids, uids)


def _state_path(selector: Selector) -> str:
    return f"state/{selector.reason}.parquet"


class Outcome:
    """What the plan has decided so far about the n rows that came in."""

    def __init__(self, count: int) -> None:
        self.selected: Bools = np.ones(count, bool)
        self.probability: Floats = np.ones(count)
        self._figures: list[dict[str, Any]] = []
        self._reason = np.full(count, -1, np.int16)
        self._reasons: list[str] = []
        self._cells: list[tuple[Cells, pa.Array]] = []

    def add(self, reason: str, kind: str, choice: Choice) -> None:
        """One more selector, about the rows that are still in."""
        own = self._code(reason)
        other = own if choice.unjudged is None else self._code(choice.why)
        cells = np.full(len(self.selected), -1, np.int32)
        start = 0
        for part in blocks(len(self.selected)):
            coming = part.start + np.flatnonzero(self.selected[part])
            theirs = slice(start, start + len(coming))
            out = ~choice.selected[theirs]
            cells[coming] = choice.cells[theirs]
            self.probability[coming] *= choice.probability[theirs]
            self.selected[coming[out]] = False
            self._reason[coming[out]] = own
            if choice.unjudged is not None:
                self._reason[coming[out & choice.unjudged[theirs]]] = other
            start = theirs.stop
        self._cells.append((cells, choice.names))
        self._figures.append(selector_figures(reason, kind, choice))

    def whole(self) -> list[dict[str, Any]]:
        """The figures of each selector, with what the whole plan left of its cells."""
        return [
            figures | after_plan(cells, self.selected, len(names))
            for figures, (cells, names) in zip(self._figures, self._cells, strict=True)
        ]

    def _code(self, reason: str) -> int:
        if reason not in self._reasons:
            self._reasons.append(reason)
        return self._reasons.index(reason)

    def reasons_given(self) -> dict[str, int]:
        """How many rows each reason left out."""
        counts = tally(self._reason, len(self._reasons)).tolist()
        return {name: count for name, count in zip(self._reasons, counts, strict=True) if count}

    def table(self, identity: pa.Table, ids: Ints) -> pa.Table:
        """SELECTION for one shard, without patches.

        identity: uid, shard, row, kept; ids: of the n rows.
        """
        kept = identity["kept"].to_numpy()
        part = of_shard(ids, identity["shard"][0].as_py()) if len(kept) else slice(0, 0)
        there = ids[part] & (1 << ROW_BITS) - 1
        found = np.full(len(kept), -1)
        found[kept] = np.searchsorted(there, identity["row"].to_numpy()[kept])
        index = pa.array(found, mask=~kept)
        reason = self._reason[part]
        reasons = pa.array(self._reasons, pa.string()).take(pa.array(reason, mask=reason < 0))
        columns = [
            pa.array(self.selected[part]).take(index).fill_null(False),
            reasons.take(index),
            pa.array(self.probability[part]).take(index),
            self._cell_lists(part, found),
        ]
        names = ("uid", "shard", "row")
        schema = SELECTION.remove(SELECTION.get_field_index("patches"))
        return pa.table([*(identity[name] for name in names), *columns], schema=schema)

    def _cell_lists(self, part: slice, found: Ints) -> pa.Array:
        """For each row the cells it fell in, in the order of the plan."""
        kept = found >= 0
        codes = np.stack([cells[part][found[kept]] for cells, _ in self._cells], axis=1)
        lengths = np.zeros(len(found), np.int32)
        lengths[kept] = (codes >= 0).sum(axis=1)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        starts = np.cumsum([0, *(len(names) for _, names in self._cells)])[:-1]
        flat = (codes + starts)[codes >= 0]
        return pa.ListArray.from_arrays(pa.array(offsets), self._every_name.take(pa.array(flat)))

    @cached_property
    def _every_name(self) -> pa.Array:
        """The names of all cells, one selector after the other; when the plan is through."""
        return pa.concat_arrays([names for _, names in self._cells])
