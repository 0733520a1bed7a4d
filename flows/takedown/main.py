"""Takedown: find, hide, rewrite, withdraw, record; killed anywhere, the same command goes on.

find       what matches, in every version of the store, and in no version by pixels
begin      the request, then the list that ingest obeys from now on
hide       tombstones, which running services see at once
seen       the runs that learnt from it, while that can still be told
rewrite    successors of all versions concerned, their scores and indexes
withdraw   the old versions; `latest` names the new ones; copies of text tables go
record     what was done, signed
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from curation.sources.text_tables import copies
from curation.takedown.find import Found, find
from curation.takedown.list import LIST, put_list, read_list
from curation.takedown.rewrite import Home, RewriteWork, all_tars, is_own, rewrite_items, shards_in
from curation.takedown.scores import CarryWork
from curation.takedown.successor import Successor, affected, successors
from flows.recipe import ExecutionSettings, load_recipe
from flows.takedown.record import write_record
from flows.takedown.request import (
    Takedown,
    TakedownOptions,
    asked_before,
    begin,
    list_of,
    takedown_of,
)
from flows.takedown.runs import runs_that_saw
from indexes import removed, succession
from infra import artifacts, dataset, filesystem
from infra.artifacts import MANIFEST, Artifact
from infra.catalogue.versions import last_change, name_of, unfinished, versions, withdrawals
from infra.dataset import ROW_BITS
from infra.digests import canonical_json
from infra.errors import SluiceError
from infra.filesystem import join
from infra.progress import Display, duration
from infra.runner import Runner
from infra.stage import run_stage
from infra.withdrawn import Withdrawal, clean_withdrawn, withdraw

SEEN = "seen.json"
OUTSIDE = "outside.json"
MOVES = "moves.json"  # what is withdrawn for what, once all of that is there, and REMOVED
REMOVED = ("unfinished", "copies")  # versions that were begun; of text tables, to be made again
YOUNG = 300.0  # seconds since the last write into a version that may still be written


@dataclass(frozen=True)
class Matched:
    """What a takedown is about. outside: tars with what goes that are no version's.

    touched: by digest of a version, the shards that are rewritten, and the tars of the store that
    they read and that hold an image that goes.
    """

    versions: Sequence[Artifact]
    found: Found
    touched: Mapping[str, Mapping[int, set[str]]]
    outside: tuple[str, ...]

    @property
    def uids(self) -> list[str]:
        return sorted({uid for rows in self.found.rows.values() for uid in rows["uid"].to_pylist()})

    @property
    def rows(self) -> int:
        return sum(table.num_rows for table in self.found.rows.values())


def match(takedown: Takedown, entries: Mapping[str, Any], runner: Runner, display: Display
          ) -> Matched:  # fmt: skip
    """Look through all versions; nothing is written."""
    every = versions(takedown.store)  # a killed run of this takedown has left some of its own
    there = [each for each in every if each.settings.get("takedown", {}).get("id") != takedown.id]
    found = find(there, entries, runner, display)
    tars = {tar for rows in found.rows.values() for tar in rows["tar"].to_pylist() if tar}
    condemned = frozenset(tar for tar in tars if is_own(takedown.store, tar))
    touched: dict[str, dict[int, set[str]]] = {}
    for version in there:
        shards = shards_in(version, condemned)
        if version.url in found.rows:
            ids = found.rows[version.url]["id"].to_numpy()
            for shard in np.unique(ids >> ROW_BITS).tolist():
                shards.setdefault(shard, set())
        if shards:
            touched[version.digest] = shards
    return Matched(there, found, touched, tuple(sorted(tars - condemned)))


def where_to_run(recipe: str | None, overrides: Sequence[str] = ()) -> ExecutionSettings:
    """As a recipe says; without one in processes here, which start sooner than Ray."""
    if recipe is None and not overrides:
        return ExecutionSettings.model_validate({"executor": "local"})
    return load_recipe(recipe, tuple(overrides)).run


def plan(store: str, options: TakedownOptions, where: ExecutionSettings, display: Display) -> str:
    """What a takedown would do, as text; nothing is written."""
    entries = options.entries()
    takedown = takedown_of(store, entries, options.reason)
    with display, where.runner() as runner:
        matched = match(takedown, entries, runner, display)
    lines = [f"takedown {takedown.id} in {store}: {matched.rows} rows, {len(matched.uids)} uids"]
    for old in affected(matched.versions, matched.touched):
        rows = matched.found.rows.get(old.url)
        shards = len(matched.touched.get(old.digest, ()))
        lines.append(
            f"  {name_of(old)}: {rows.num_rows if rows is not None else 0} rows, {shards} of "
            f"{old.totals['parts']} shards to be written anew"
        )
    lines += [f"  a source, left as it is: {url}" for url in matched.outside]
    lines += [f"  unfinished, to be removed: {url}" for url in unfinished(store)]
    lines += [f"  a copy of text tables, to be removed: {url}" for url in copies(store)]
    return "\n".join(lines)


def run(store: str, options: TakedownOptions, where: ExecutionSettings, display: Display) -> str:
    """Take down what the options name, or finish that; what was done, as text.

    Raises SluiceError where another takedown is unfinished, or a version is being written.
    """
    entries = options.entries()
    takedown = takedown_of(store, entries, options.reason)
    with display, where.runner() as runner:
        moved = filesystem.exists(join(takedown.url, MOVES))
        if not (moved or _prepared(takedown, entries, runner, display)):
            return "nothing of this is left in the store: it was taken down before"
        moves = filesystem.read_json(join(takedown.url, MOVES))
        for old, new in moves["versions"]:
            _withdraw(takedown, join(store, old), new)
        gone = {some: moves.get(some, []) for some in REMOVED}  # older code noted no copies
        _clean(store, [join(store, each) for some in gone.values() for each in some])
        return write_record(takedown, gone)


def _prepared(
    takedown: Takedown, entries: Mapping[str, Any], runner: Runner, display: Display
) -> bool:
    """All up to the first withdrawal; False where there is nothing to do that was not done."""
    start, store = time.monotonic(), takedown.store
    begun = filesystem.exists(join(takedown.url, LIST))
    if begun:  # what was found then is looked for as well
        entries = read_list(list_of(takedown))
    matched = match(takedown, entries, runner, display)
    if not begun and not matched.rows and asked_before(takedown):
        return False
    begin(takedown)
    put_list(takedown.url, takedown.number, matched.found.entries)
    made = _successors(takedown, matched)
    hidden = _hide(takedown, matched)
    display.say(f"hidden from every index after {duration(time.monotonic() - start)}")
    tables, stale = copies(store), _unfinished(store, made)
    _note(takedown, matched, made)
    homes = _homes(made, matched)
    for each in made:
        _rewrite(each, matched, homes, runner, display)
    for each in made:
        _carry_index(each, made, hidden, runner, display)
    moves = {
        "versions": [[_place(store, each.old.url), each.draft.spec.digest] for each in made],
        "unfinished": [_place(store, url) for url in stale],
        "copies": [_place(store, url) for url in tables],
    }
    filesystem.put_if_absent(takedown.url, MOVES, canonical_json(moves))
    return True


def _place(store: str, url: str) -> str:
    return url.removeprefix(store).strip("/")


def _successors(takedown: Takedown, matched: Matched) -> list[Successor]:
    order = affected(matched.versions, matched.touched)
    return successors(order, list_of(takedown), takedown.id)


def _unfinished(store: str, made: Sequence[Successor]) -> list[str]:
    """Versions that somebody began and left, which go.

    SluiceError for one that is being written now, or a copy of text tables.
    """
    ours = {each.draft.url for each in made}
    found = [url for url in unfinished(store) if url not in ours]
    for url in (*found, *copies(store)):
        age = last_change(url)
        if age is not None and age < YOUNG:
            raise SluiceError(
                f"{url} is being written: the last time {duration(age)} ago",
                f"stop that run, or let it end; what was killed may go after {duration(YOUNG)}",
            )
    return found


def _hide(takedown: Takedown, matched: Matched) -> dict[str, str]:
    """Put tombstones; by URL of a version the file that holds them."""
    hidden: dict[str, str] = {}
    for url, rows in matched.found.rows.items():
        reason = pa.array([f"takedown {takedown.id}"] * rows.num_rows, pa.string())
        hidden[url] = removed.remove(url, rows.append_column("reason", reason))
    return hidden


def _note(takedown: Takedown, matched: Matched, made: Sequence[Successor]) -> None:
    """Keep what can be told only as long as the old versions are there; the first time counts."""
    digests = [each.old.digest for each in made]
    for name, tell in (
        (SEEN, lambda: runs_that_saw(takedown.store, digests, matched.uids)),
        (OUTSIDE, lambda: list(matched.outside)),
    ):
        if not filesystem.exists(join(takedown.url, name)):
            filesystem.put_if_absent(takedown.url, name, canonical_json(tell()))
    filesystem.remove_tree(join(takedown.url, filesystem.TEMPORARY))


def _homes(made: Sequence[Successor], matched: Matched) -> dict[str, Home]:
    """Of each tar with an image that goes, the shard that takes in the others: the first one's."""
    homes: dict[str, Home] = {}
    for each in made:
        for shard, tars in sorted(matched.touched.get(each.old.digest, {}).items()):
            for tar in sorted(tars):
                homes.setdefault(tar, (each.draft.url, shard))
    return homes


def _rewrite(
    each: Successor,
    matched: Matched,
    homes: Mapping[str, Home],
    runner: Runner,
    display: Display,
) -> None:
    """Make a successor, then its scores."""
    old, touched = each.old, matched.touched.get(each.old.digest, {})
    rows = matched.found.rows.get(old.url)
    ids = np.empty(0, np.int64) if rows is None else rows["id"].to_numpy()
    items = rewrite_items(old, ids, touched, homes)
    work = RewriteWork(each.draft.url, old.url)
    title = f"rewrite {name_of(old)}"
    run_stage(title, {"": each.draft}, items, work, runner, display)
    if each.scores:
        places = {
            folder: (old.path("scores", folder), draft.url) for folder, draft in each.scores.items()
        }
        title = f"scores of {name_of(old)}"
        run_stage(title, each.scores, items, CarryWork(places), runner, display)


def _carry_index(
    each: Successor,
    made: Sequence[Successor],
    hidden: Mapping[str, str],
    runner: Runner,
    display: Display,
) -> None:
    new = artifacts.load(each.draft.url)
    assert new is not None
    but = [hidden[each.old.url]] if each.old.url in hidden else []
    succession.take_over_removals(each.old.url, new.url, but)
    folders = {
        folder: draft.url.rpartition("/")[2] for one in made for folder, draft in one.scores.items()
    }
    try:
        succession.build_after(each.old, new, folders, runner, display)
    except SluiceError as error:
        display.say(f"no index of {name_of(new)}: {error.what}; `prefect run index` makes one")


def _withdraw(takedown: Takedown, old: str, new: str) -> None:
    """Let `latest` name the successor where it named the old version, which then is no more."""
    store, name, digest = old.rsplit("/", 2)
    made = artifacts.load(join(store, name, new))
    if made is None:
        raise SluiceError(
            f"{join(store, name, new)} is gone, which takes the place of {old}",
            f"remove {join(takedown.url, MOVES)} and run the same command again",
        )
    pointer = join(store, name, dataset.LATEST)
    if filesystem.exists(pointer):
        named = filesystem.read_bytes(pointer).decode().strip()
        if named == digest:
            dataset.publish(store, name, made)
    withdraw(old, MANIFEST, Withdrawal(takedown.id, new))


def _clean(store: str, stale: Sequence[str]) -> None:
    """Remove what no committed version refers to any more from all withdrawn folders."""
    keep = {tar for version in versions(store) for tar in all_tars(version)}
    for url, _ in withdrawals(store):
        clean_withdrawn(url, keep)
    for url in stale:
        filesystem.remove_tree(url)
