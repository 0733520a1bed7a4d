"""`diff`: what two versions have in common and what not, as text; flows.store.page draws it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.main import store_url
from flows.store.changed import Changed, changed_settings
from flows.store.funnel import KEPT, Change, funnel_change
from flows.store.spread import Shares, Shift, observe, shares, shifts
from flows.store.states import Movements, movements
from flows.store.text import clean, table
from infra import artifacts
from infra.catalogue.nodes import Node
from infra.catalogue.survey import survey
from infra.dataset import Dataset
from infra.errors import SluiceError
from infra.progress import Display

LEAST = 0.001  # a column whose shares all moved by less is not told
SHOWN = 15  # changes, columns and settings that are told in a terminal


@dataclass(frozen=True)
class Diff:
    """Two versions side by side. old, new: as NAME@VERSION; totals: of their manifests."""

    old: str
    new: str
    old_totals: Mapping[str, Any]
    new_totals: Mapping[str, Any]
    funnel: Sequence[Change]
    movements: Movements
    settings: Sequence[Changed]
    shifts: Sequence[Shift]
    shares: Sequence[Shares]

    def states(self) -> list[tuple[str, int, int]]:
        """rows, kept and each reason: the counts of both."""
        reasons = sorted({*self.old_totals["dropped"], *self.new_totals["dropped"]})
        first = [(key, self.old_totals[key], self.new_totals[key]) for key in ("rows", KEPT)]
        counts = (self.old_totals["dropped"], self.new_totals["dropped"])
        return first + [(name, counts[0].get(name, 0), counts[1].get(name, 0)) for name in reasons]

    def __str__(self) -> str:
        return diff_text(self)


def diff(
    store: str | None, old: str, new: str, display: Display, changes: str | None = None
) -> Diff:
    """Compare two versions by name: NAME, NAME~1 (the one before), NAME@VERSION, a tag.

    changes: a Parquet file to write, with every uid whose state changed.
    """
    catalogue = survey(store_url(store))
    nodes = [catalogue.find(name) for name in (old, new)]
    before, after = (_open(catalogue.url(node.place), node) for node in nodes)
    steps = 2 * (len(before.shards) + len(after.shards))
    with display:
        line = display.stage(f"diff {nodes[0].label} {nodes[1].label}", steps, "steps")
        moved = movements(before, after, changes, line.advance)
        seen = [observe(version, line.advance) for version in (before, after)]
        line.finish()
    totals = before.artifact.totals, after.artifact.totals
    return Diff(
        nodes[0].label,
        nodes[1].label,
        *totals,
        funnel_change([totals[0]], totals[1]),
        moved,
        changed_settings(before, after),
        shifts(*seen),
        shares(*seen),
    )


def _open(url: str, node: Node) -> Dataset:
    artifact = artifacts.load(url) if node.is_version else None
    if artifact is None:
        raise SluiceError(
            f"{node.label} is no dataset version but {node.kind or node.state}",
            "name versions, as NAME or NAME@VERSION",
        )
    return Dataset(artifact)


def diff_text(found: Diff) -> str:
    """A diff for a terminal."""
    return "\n\n".join(_sections(found))


def _sections(found: Diff) -> Iterator[str]:
    yield f"{found.old} -> {found.new}"
    yield _counts(found)
    moved = found.movements
    rows = [
        (each.before, each.after, f"{each.count:,}", each.examples[0])
        for each in moved.moved[:SHOWN]
    ]
    yield f"samples: {moved.entered:,} entered, {moved.left:,} left" + (
        "\n" + table(("from", "to", "samples", "for example"), rows, right=(2,)) if rows else ""
    )
    if found.settings:
        changes = [(each.key, value(each.old), value(each.new)) for each in found.settings]
        yield "settings that differ\n" + _few(changes, ("setting", "old", "new"))
    else:
        yield "no setting differs"
    if found.shifts:
        columns = [_shift(each) for each in found.shifts]
        header = ("column, of kept samples", "old mean", "new mean", "old quartiles",
                  "new quartiles", "KS")  # fmt: skip
        note = "\n* more than chance between independent samples, at the level 0.001"
        far = any(each.beyond_chance for each in found.shifts)
        yield _few(columns, header, right=(1, 2, 5)) + (note if far else "")
    for each in (each for each in found.shares if each.change >= LEAST):
        yield _few(
            [(clean(name, 40) or "(none)", share(a), share(b)) for name, a, b in each.values],
            (f"share by {each.column}", "old", "new"),
            right=(1, 2),
        )


def _counts(found: Diff) -> str:
    far = {each.state: each for each in found.funnel}
    rows: list[tuple[str, ...]] = []
    for name, old, new in found.states():
        change = far.get(name)
        mark = "  *" if change and change.far else ""
        shares = ("", "") if change is None else (share(change.expected), share(change.share))
        rows.append((name, f"{old:,}", f"{new:,}", f"{new - old:+,}", *shares, mark.strip()))
    header = ("", "old", "new", "change", "old share", "new share", "")
    note = (
        "\n* the share moved by more than chance" if any(each.far for each in found.funnel) else ""
    )
    return table(header, rows, right=(1, 2, 3, 4, 5)) + note


def _few(rows: Sequence[Sequence[str]], header: Sequence[str], right: Sequence[int] = ()) -> str:
    rest = len(rows) - SHOWN
    return table(header, rows[:SHOWN], right) + (f"\nand {rest} more" if rest > 0 else "")


def _shift(each: Shift) -> tuple[str, ...]:
    old, new = each.old, each.new
    quartiles = (f"{side.low:.4g} {side.middle:.4g} {side.high:.4g}" for side in (old, new))
    mark = "*" if each.beyond_chance else " "
    return (each.column, f"{old.mean:.4g}", f"{new.mean:.4g}", *quartiles,
            f"{each.distance:.3f}{mark}")  # fmt: skip


def share(value: float) -> str:
    return f"{100 * value:.2f} %"


def value(setting: Any) -> str:
    """A setting as people read it; one that is not there is a dash."""
    return "-" if setting is None else clean(str(setting), 60)
