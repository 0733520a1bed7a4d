"""Figures of a plan: sizes expected and realised, and how even cells were before and after."""

from typing import Any

import numpy as np

from curation.draws import Bools
from curation.selection.choice import Cells, Choice, Ints, tally

LARGEST = 20  # cells whose sizes before and after stand in the manifest
POINTS = 20  # of the curve of how many rows the largest cells hold


def selector_figures(reason: str, kind: str, choice: Choice) -> dict[str, Any]:
    """What the manifest says of one selector."""
    figures = {
        "name": reason,
        "kind": kind,
        "rows": len(choice.selected),
        "expected": round(float(choice.probability.sum()), 3),
        "realised": int(choice.selected.sum()),
        **choice.figures,
    }
    if choice.unjudged is not None:
        figures[choice.why] = int(choice.unjudged.sum())
    return figures | distribution(choice)


def distribution(choice: Choice) -> dict[str, Any]:
    """The sizes of the cells before and after, and how many equal cells would be as uneven."""
    if not len(choice.names):
        return {}
    before, after = (
        tally(cells, len(choice.names)) for cells in (choice.cells, choice.cells[choice.selected])
    )
    order = np.argsort(-before, kind="stable")[:LARGEST]
    there = before > 0
    return {
        "cells": [int((sizes > 0).sum()) for sizes in (before, after)],
        "effective_cells": [effective(sizes) for sizes in (before, after)],
        "held": [held(sizes[there]) for sizes in (before, after)],
        "largest": [
            [choice.names[cell].as_py(), int(before[cell]), int(after[cell])]
            for cell in order.tolist()
            if before[cell]
        ],
    }


def after_plan(cells: Cells, selected: Bools, count: int) -> dict[str, Any]:
    """What all selectors together left of one's cells; cells, selected: [n]."""
    if not count:
        return {}
    before, after = tally(cells, count), tally(cells[selected], count)
    return {
        "plan": {
            "cells": int((after > 0).sum()),
            "effective_cells": effective(after),
            "held": held(after[before > 0]),
        }
    }


def held(sizes: Ints) -> list[float]:
    """The share of rows that the largest 1/20, 2/20, ... of the cells hold; [] without rows.

    Between one cell and the next a straight line: equal cells give 0.05, 0.1, ...
    """
    total = int(sizes.sum())
    if not total:
        return []
    sums = np.cumsum([0, *np.sort(sizes)[::-1]]) / total
    shares = np.interp(np.arange(1, POINTS + 1) / POINTS, np.linspace(0, 1, len(sums)), sums)
    return [round(float(share), 4) for share in shares]


def effective(sizes: Ints) -> float:
    """exp of the entropy of a distribution over cells: n for n equal ones, 1 for a single one."""
    share = sizes[sizes > 0] / max(sizes.sum(), 1)
    return round(float(np.exp(-(share * np.log(share)).sum())), 3)
