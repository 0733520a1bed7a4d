"""gc: what of a store nobody needs any more, and taking it away.

What stays are the roots and all that they refer to, directly or through others: by a digest in a
manifest, by tars used where they are, by the folder that one lies in. Roots are the versions that
`latest` names, what is tagged, what was made not long ago, and, unless asked otherwise, every
finished run, evaluation and race.

A manifest goes before the files it lists, and whatever refers to a thing or points at it goes
before the thing. So a gc that is killed leaves a store in which everything that exists is whole;
the next one ends the work. Nothing locks a store: a run that started from an old, unnamed version
and has not yet committed is not known, so tag the version, or let gc wait for the run.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from infra import filesystem
from infra.artifacts import MANIFEST
from infra.catalogue.nodes import (
    COMMITTED,
    REMOVED,
    UNFINISHED,
    WITHDRAWN,
    Catalogue,
    Node,
)
from infra.catalogue.notes import JOBS, PAGES, Note, notes
from infra.catalogue.tags import read_tags
from infra.dataset import LATEST
from infra.filesystem import join, remove_file
from infra.filesystem.abandoned import Abandoned, abandoned, abort
from infra.filesystem.entries import files_under, remove_folder
from infra.progress import Display, duration
from infra.withdrawn import WITHDRAWN_FILE

DAY = 86400.0
PAGES_KEPT = 10  # of runs, the last ones, however old
AT_WORK = 3600.0  # seconds since a run wrote its page, or asked for its job, that it may go on


@dataclass(frozen=True)
class Retention:
    """What stays beside `latest` and tags.

    older_than: seconds; what was made since stays, and all that it refers to; so do pages of runs
    that were written since. unfinished: seconds for which an unfinished artifact, or a job that
    nobody waits for, is left to whoever may still write it or go on with it.
    derived: scores, verdicts, indexes of kept versions go, too, where nothing refers to them.
    runs: runs, evaluations and the like go, too, once what they were made of does.
    """

    older_than: float = 30 * DAY
    unfinished: float = 7 * DAY
    derived: bool = False
    runs: bool = False


@dataclass(frozen=True)
class Removal:
    """One thing to take away: the artifact at a place, a note of a run, a file, or an upload."""

    place: str
    what: str
    why: str
    bytes: int
    upload: Abandoned | None = None
    node: Node | None = None
    note: Note | None = None


@dataclass(frozen=True)
class Plan:
    """What goes, in an order in which nothing goes before what refers to it; and what stays.

    kept: why each artifact stays, by place.
    """

    catalogue: Catalogue
    removals: Sequence[Removal]
    kept: Mapping[str, str]

    @property
    def bytes(self) -> int:
        return sum(removal.bytes for removal in self.removals)


def plan_gc(catalogue: Catalogue, retention: Retention, now: float | None = None) -> Plan:
    """What gc would take away; nothing is written. now: seconds since 1970.

    Raises SluiceError where a manifest cannot be read: nobody knows what that one refers to.
    """
    catalogue.check()
    now = time.time() if now is None else now
    reached = _reach(catalogue, retention, now)
    gone = [node for place, node in catalogue.nodes.items() if place not in reached.why]
    removals = [
        Removal(node.place, _what(node), _why(node, now), _bytes(catalogue, node), node=node)
        for node in _dependents_first(catalogue, gone)
        if node.state != WITHDRAWN
    ]
    removals += _withdrawn(catalogue, reached.tars)
    removals += _notes(catalogue, retention, now)
    inside = tuple(f"{each.place}/" for each in (*gone, *removals))
    removals += [
        each
        for each in _spare(catalogue, reached.why, now - retention.unfinished)
        if not each.place.startswith(inside)
    ]
    removals += _uploads(catalogue, now, retention.unfinished)
    return Plan(catalogue, removals, reached.why)


@dataclass
class _Reached:
    why: dict[str, str] = field(default_factory=dict[str, str])  # by place
    tars: set[str] = field(default_factory=set[str])  # URLs of those in withdrawn versions


def _reach(catalogue: Catalogue, retention: Retention, now: float) -> _Reached:
    reached = _Reached()
    for place, why in _roots(catalogue, retention, now):
        _visit(catalogue, retention, reached, place, why)
    while retention.runs and (results := _results(catalogue, reached)):
        for place in results:
            _visit(catalogue, retention, reached, place, "made of what is kept")
    return reached


def _roots(catalogue: Catalogue, retention: Retention, now: float) -> Iterator[tuple[str, str]]:
    for pointer in catalogue.pointers:
        if pointer.home is None:
            yield pointer.target, f"named by {pointer.place}"
    for tag, place in catalogue.tags.items():
        yield place, f"tagged {tag}"
    for place, node in catalogue.nodes.items():
        age = now - node.changed
        if node.state == COMMITTED and age < retention.older_than:
            yield place, f"made {duration(age)} ago"
        elif node.state == UNFINISHED and age < retention.unfinished:
            yield place, f"written to {duration(age)} ago"
        elif node.state == COMMITTED and _is_result(node) and not retention.runs:
            yield place, f"a finished {node.kind}"


def _is_result(node: Node) -> bool:
    return node.home is None and not node.is_version


def _results(catalogue: Catalogue, reached: _Reached) -> list[str]:
    """Runs and the like that are not reached, but all that they were made of is."""
    found: list[str] = []
    for place, node in catalogue.nodes.items():
        if place in reached.why or node.state != COMMITTED or not _is_result(node):
            continue
        made_of = catalogue.references[place]
        if made_of and all(each in reached.why for each in made_of):
            found.append(place)
    return found


def _visit(
    catalogue: Catalogue, retention: Retention, reached: _Reached, place: str, why: str
) -> None:
    """Keep the artifact at a place, and all that it refers to."""
    waiting = [(place, why)]
    while waiting:
        place, why = waiting.pop()
        node = catalogue.nodes.get(place)
        if node is None or place in reached.why:
            continue
        reached.why[place] = why
        because = f"needed by {node.label}"
        waiting += [(each, because) for each in catalogue.references[place]]
        waiting += [
            (pointer.target, f"named by {pointer.place}")
            for pointer in catalogue.pointers
            if pointer.home == place
        ]
        if node.state == COMMITTED and not retention.derived:
            inner = (catalogue.nodes[each] for each in catalogue.within.get(place, ()))
            waiting += [(each.place, because) for each in inner if each.state == COMMITTED]
        for home, url in _tar_homes(catalogue, place):
            waiting.append((home, because))
            if catalogue.nodes[home].state == WITHDRAWN:
                reached.tars.add(url)


def _tar_homes(catalogue: Catalogue, place: str) -> Iterator[tuple[str, str]]:
    """(place, URL): in which other artifacts of the store the tars of one lie."""
    if catalogue.nodes[place].state == COMMITTED:
        for _, url, _ in catalogue.tars(place):
            home = catalogue.place_of(url)
            if home is not None and home != place:
                yield home, url


def _dependents_first(catalogue: Catalogue, gone: Sequence[Node]) -> list[Node]:
    """These nodes, each after all of them that refer to it."""
    users: dict[str, list[str]] = {node.place: [] for node in gone}
    for node in gone:
        homes = {home for home, _ in _tar_homes(catalogue, node.place)}
        for each in catalogue.references[node.place] | homes:
            if each in users:
                users[each].append(node.place)
    done: dict[str, None] = {}
    begun: set[str] = set()
    for node in gone:
        stack = [node.place]
        while stack:
            place = stack[-1]
            ahead = [each for each in users[place] if each not in begun]
            begun.add(place)
            if ahead:
                stack.append(ahead[0])
            else:
                done.setdefault(stack.pop())
    return [catalogue.nodes[place] for place in done]


def _what(node: Node) -> str:
    if node.state == UNFINISHED:
        return "unfinished"
    return "version" if node.is_version else node.kind


def _why(node: Node, now: float) -> str:
    age = duration(max(now - node.changed, 0))
    if node.state == UNFINISHED:
        return f"last written to {age} ago"
    return f"nothing that stays refers to it; made {age} ago"


def _bytes(catalogue: Catalogue, node: Node) -> int:
    if node.state == COMMITTED:
        return node.bytes
    inner = (catalogue.nodes[place].bytes for place in catalogue.within.get(node.place, ()))
    return max(node.bytes - sum(inner), 0)


def _withdrawn(catalogue: Catalogue, tars: set[str]) -> Iterator[Removal]:
    """Of withdrawn versions all but the record of it, and the tars that others still use."""
    used = {filesystem.resolve(url)[1] for url in tars}
    for node in catalogue.nodes.values():
        if node.state != WITHDRAWN:
            continue
        inner = tuple(f"{catalogue.url(each)}/" for each in catalogue.within.get(node.place, ()))
        for entry in files_under(catalogue.url(node.place)):
            if entry.name == WITHDRAWN_FILE or entry.url.startswith(inner):
                continue
            if filesystem.resolve(entry.url)[1] not in used:
                place = entry.url[len(catalogue.url("")) :]
                yield Removal(place, "withdrawn", "no version uses it any more", entry.bytes)


def _spare(catalogue: Catalogue, kept: Mapping[str, str], before: float) -> Iterator[Removal]:
    """Litter beside and in what stays, unless somebody wrote to it since `before`."""
    places = list(catalogue.spare)
    for place, node in catalogue.nodes.items():
        if place in kept and node.state == COMMITTED:
            places += [f"{place}/{name}" for name in node.spare]
    for place in places:
        found = list(files_under(catalogue.url(place)))
        if max((entry.changed for entry in found), default=0.0) <= before:
            size = sum(entry.bytes for entry in found)
            yield Removal(place, "leftover", "left by a process that was killed", size)


def _notes(catalogue: Catalogue, retention: Retention, now: float) -> Iterator[Removal]:
    """Pages of old runs, and orders of jobs that nobody has waited for; none of what may go on."""
    pages = notes(catalogue.store, PAGES)[PAGES_KEPT:]
    for kind, found, patience, why in (
        ("page", pages, retention.older_than, "of a run that ended"),
        ("job", notes(catalogue.store, JOBS), retention.unfinished, "last waited for"),
    ):
        for note in found:
            age = now - note.changed
            if note.changed and age >= max(patience, AT_WORK):
                why_gone = f"{why} {duration(age)} ago"
                yield Removal(note.place, kind, why_gone, note.bytes, note=note)


def _uploads(catalogue: Catalogue, now: float, patience: float) -> Iterator[Removal]:
    for upload in abandoned(catalogue.store):
        age = now - upload.started
        if age >= patience:
            place = upload.url[len(catalogue.url("")) :]
            yield Removal(place, "upload", f"begun {duration(age)} ago, never ended", 0, upload)


def collect(plan: Plan, display: Display) -> None:
    """Take away what a plan says. Killed at any point, the next gc does the rest."""
    line = display.stage("gc", len(plan.removals), "things")
    freed = 0
    for removal in plan.removals:
        if not _wanted_since(plan.catalogue, removal):
            _remove(plan.catalogue, removal)
            freed += removal.bytes
        line.advance(1, f"{freed} bytes")
    line.finish(f"{freed} bytes")


def _wanted_since(catalogue: Catalogue, removal: Removal) -> bool:
    """Whether somebody has named an artifact, or written to a note, since the plan was made."""
    if removal.note is not None:
        written = (entry.changed for entry in files_under(catalogue.url(removal.place)))
        return max(written, default=0.0) > removal.note.changed
    return removal.node is not None and _named_since(catalogue, removal.node)


def _named_since(catalogue: Catalogue, node: Node) -> bool:
    """Whether somebody has pointed at a version, or tagged it, since the plan was made."""
    if node.home is not None or node.state != COMMITTED:
        return False
    pointer = join(catalogue.store, node.place.partition("/")[0], LATEST)
    latest = filesystem.read_bytes(pointer).decode() if filesystem.exists(pointer) else ""
    return latest.strip() == node.digest or node.place in read_tags(catalogue.store).values()


def _remove(catalogue: Catalogue, removal: Removal) -> None:
    url = catalogue.url(removal.place)
    if removal.upload is not None:
        abort(removal.upload)
        return
    if removal.node is not None:
        for pointer in catalogue.pointers:
            if pointer.target == removal.place:  # of what goes, too: `index/latest.json`
                remove_file(catalogue.url(pointer.place))
        filesystem.write_bytes(url, REMOVED, b"removed")  # what is left is told from others' files
        remove_file(join(url, MANIFEST))  # first: what has no manifest is not there
        remove_folder(url)
    elif filesystem.is_folder(url):
        remove_folder(url)
    else:
        remove_file(url)
    parent = removal.place.rpartition("/")[0]
    while parent and parent not in catalogue.nodes:
        filesystem.remove_empty(catalogue.url(parent))
        parent = parent.rpartition("/")[0]
