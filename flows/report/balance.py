"""The sampling plan: sizes expected and realised, and how evenly cells were filled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from flows.report.context import ReportContext
from infra import artifacts, charts

SHOWN = 8  # of the largest cells


@dataclass(frozen=True)
class Cell:
    """One of the largest cells: rows before and after; the shares are of the largest before."""

    name: str
    before: int
    after: int
    before_share: float
    after_share: float


@dataclass(frozen=True)
class Selector:
    """What came to one selector, what it was to leave, what it left.

    cells: how many had rows when they came, after this selector, after the plan; even: how many
    equal cells would be as uneven; both empty where it has no cells.
    """

    name: str
    kind: str
    rows: int
    expected: float
    realised: int
    cells: Sequence[int]
    even: Sequence[float]
    chart: Markup | None
    largest: Sequence[Cell]


def selectors(context: ReportContext) -> list[Selector]:
    """The selectors of the plan, in order; none where there is no selection."""
    made = artifacts.load(context.selection) if context.selection else None
    parts = made.parts if made else ()
    return [_selector(one) for part in parts for one in part.extra["selectors"]]


def _selector(figures: Mapping[str, Any]) -> Selector:
    plan = figures.get("plan", {})
    largest = figures.get("largest", [])[:SHOWN]
    top = max((before for _, before, _ in largest), default=1)
    return Selector(
        figures["name"],
        figures["kind"],
        figures["rows"],
        figures["expected"],
        figures["realised"],
        [*figures["cells"], plan["cells"]] if plan else [],
        [*figures["effective_cells"], plan["effective_cells"]] if plan else [],
        _chart(figures) if plan else None,
        [Cell(name, before, after, before / top, after / top) for name, before, after in largest],
    )


def _chart(figures: Mapping[str, Any]) -> Markup | None:
    """What the largest cells hold; a straight line where all cells are equal."""
    before, after = figures["held"]
    lines = [_line("came", before, 2), _line("kept by it", after, 1)]
    if figures["plan"]["held"] != after:
        lines.append(_line("kept by the plan", figures["plan"]["held"], 3))
    lines = [line for line in lines if line is not None]
    if not lines:
        return None
    return charts.line_chart(
        figures["name"],
        lines,
        "share of its cells, the largest first",
        "share of rows they hold",
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
        percent=True,
    )


def _line(label: str, held: Sequence[float], colour: int) -> charts.Line | None:
    """A curve from none of the cells, which hold nothing, to all of them."""
    places = [place / len(held) for place in range(len(held) + 1)] if held else []
    return charts.Line(label, places, [0.0, *held], colour) if held else None
