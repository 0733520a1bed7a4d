"""`lineage --uid`: which versions hold a sample, where it came from, and which runs saw it."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from flows.main import store_url
from flows.store.text import clean
from infra import artifacts
from infra.catalogue.nodes import COMMITTED, Catalogue, Node
from infra.catalogue.survey import survey
from infra.dataset import Dataset, part_name
from infra.errors import SluiceError
from infra.progress import Display

_UID = re.compile(r"[0-9a-f]{32}")
SHOWN = 10  # of what was made of a run
FACTS = ["uid", "row", "status", "reason", "source", "url", "caption", "sha256"]


@dataclass(frozen=True)
class Held:
    """A row with the uid. state: "kept", or why it is not."""

    version: str
    shard: int
    row: int
    state: str
    source: str
    url: str
    caption: str
    sha256: str


@dataclass(frozen=True)
class Saw:
    """A run that learnt from a version with the sample. times: it saw it; None if nobody can tell.

    why: what cannot be told. heirs: what was made of the run, and so of the sample.
    """

    run: str
    times: int | None
    why: str
    heirs: Sequence[str]


@dataclass(frozen=True)
class Trace:
    """All that a store knows of one uid."""

    uid: str
    held: Sequence[Held]
    saw: Sequence[Saw]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def trace(store: str | None, uid: str, display: Display, name: str | None = None) -> Trace:
    """Look for a uid in all versions of a store, or in one by name; then in the runs on them.

    Reads the uids of every shard. Raises SluiceError where no version has it.
    """
    catalogue = survey(store_url(store))
    versions = [catalogue.find(name)] if name else catalogue.versions()
    absent = SluiceError(
        f"no version of {catalogue.store} has a sample {uid!r}",
        "a uid is 32 hex characters, as in the report and in the rows/ files",
    )
    if not versions or not _UID.fullmatch(uid):
        raise absent
    held: list[Held] = []
    holders: list[str] = []  # places of the versions that keep it
    with display:
        line = display.stage(f"uid {uid}", len(versions), "versions")
        for node in versions:
            found = list(_find(catalogue, node, uid))
            held += found
            holders += [node.place] if any(each.state == "kept" for each in found) else []
            line.advance(1, f"{len(held)} rows")
        line.finish(f"{len(held)} rows")
        if not held:
            raise absent
        learners = _learners(catalogue, holders)
        line = display.stage("what was seen", len(learners), "runs")
        saw: list[Saw] = []
        for node in learners:
            saw.append(_saw(catalogue, node, uid))
            line.advance(1)
        line.finish()
    return Trace(uid, held, saw)


def _find(catalogue: Catalogue, node: Node, uid: str) -> Iterator[Held]:
    artifact = artifacts.load(catalogue.url(node.place))
    if artifact is None:
        return
    dataset, wanted = Dataset(artifact), pa.scalar(uid, pa.string())
    for shard in sorted(dataset.shards):
        uids = dataset.rows(shard, ["uid"])["uid"]
        if uids.index(wanted).as_py() < 0:
            continue
        rows = dataset.rows(shard, FACTS).filter(pc.field("uid") == wanted)
        for row in rows.to_pylist():
            state = "kept" if row["status"] == "ok" else row["reason"] or row["status"]
            words = (row[name] or "" for name in ("source", "url", "caption", "sha256"))
            yield Held(node.label, shard, row["row"], state, *words)


def _learners(catalogue: Catalogue, holders: Sequence[str]) -> list[Node]:
    """The finished runs that learnt from these versions, directly."""
    digests = {catalogue.nodes[place].digest for place in holders}
    return [
        node
        for node in catalogue.nodes.values()
        if node.kind == "run" and node.state == COMMITTED and digests & set(node.parents)
    ]


def _saw(catalogue: Catalogue, node: Node, uid: str) -> Saw:
    from pretrain.seen import seen

    times, why = 0, ""
    try:
        for table in seen(catalogue.url(node.place)):
            counts = table.filter(pc.field("uid") == uid)["times"]
            times += sum(counts.to_pylist())
    except SluiceError as error:
        times, why = None, error.what
    return Saw(node.place, times, why, _heirs(catalogue, node.place))


def _heirs(catalogue: Catalogue, place: str) -> list[str]:
    """All that refers to an artifact, directly or through others."""
    found: set[str] = set()
    waiting = [place]
    while waiting:
        here = waiting.pop()
        users = [each for each, named in catalogue.references.items() if here in named]
        waiting += [each for each in users if each not in found]
        found.update(users)
    return sorted(found - {place})


def _lines(found: Trace) -> Iterator[str]:
    yield f"{found.uid}"
    for each in found.held:
        yield f"  {each.version}, shard {part_name(each.shard)}, row {each.row}: {each.state}"
    first = found.held[0]
    for name in ("source", "url", "caption", "sha256"):
        yield f"  {name:<8} {clean(getattr(first, name)) or '-'}"
    if not found.saw:
        yield "no run learnt from a version that keeps it"
    for each in found.saw:
        told = each.why if each.times is None else f"saw it {each.times:,} times"
        yield f"{each.run}: {told}"
        if each.heirs:
            rest = len(each.heirs) - SHOWN
            more = f" and {rest} more" if rest > 0 else ""
            yield f"  made of it: {', '.join(each.heirs[:SHOWN])}{more}"
