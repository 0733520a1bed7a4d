"""The page of a diff: one file in the look of the report."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from flows.report.render import fill
from flows.store.diff import Diff, value
from flows.store.spread import Shift
from flows.store.text import clean
from infra import charts, filesystem

CURVES = 8  # columns whose distributions are drawn
POINTS = 200


def write_diff_page(found: Diff, path: str) -> str:
    """Write the page of a diff to a file; its path."""
    folder, _, name = path.rpartition("/")
    page = fill("diff.html.jinja", diff=view(found), title="two versions")
    filesystem.write_bytes(folder or ".", name, page.encode("utf-8", "replace"))
    filesystem.remove_empty(filesystem.join(folder or ".", filesystem.TEMPORARY))
    return path


def view(found: Diff) -> Mapping[str, Any]:
    """What the template shows."""
    changes = {each.state: each for each in found.funnel}
    kept = changes.get("kept")
    return {
        "old": found.old,
        "new": found.new,
        "same": not (found.movements.moved or found.settings),
        "kept": [total["kept"] for total in (found.old_totals, found.new_totals)],
        "kept_shares": (kept.expected, kept.share) if kept else None,
        "entered": found.movements.entered,
        "left": found.movements.left,
        "states": [(name, old, new, changes.get(name)) for name, old, new in found.states()],
        "far": [each for each in found.funnel if each.far],
        "moved": found.movements.moved,
        "settings": [(each.key, value(each.old), value(each.new)) for each in found.settings],
        "shifts": found.shifts,
        "curves": [_curves(each) for each in found.shifts[:CURVES] if each.distance],
        "shares": [
            (each.column, [(clean(name, 60), old, new) for name, old, new in each.values])
            for each in found.shares
        ],
    }


def _curves(shift: Shift) -> Markup:
    """The share of samples below each value, in both versions."""
    lines = []
    for name, side, colour, style in (
        ("old", shift.old, 2, "dashed"),
        ("new", shift.new, 1, "solid"),
    ):
        places = np.linspace(0, 1, POINTS)
        lines.append(charts.Line(name, np.quantile(side.values, places), places, colour, style))
    return charts.line_chart(
        shift.column, lines, shift.column, "samples at or below", y_range=(0, 1), percent=True
    )
