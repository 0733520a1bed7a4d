"""The section on the sampling plan, against the figures that the selection left."""

from pathlib import Path

import pytest

from flows.report.balance import Selector, selectors
from flows.report.context import ReportContext
from infra import artifacts
from infra.artifacts import Part, Spec
from infra.filesystem import write_bytes

FIGURES = [
    {
        "name": "words", "kind": "concepts", "rows": 100, "expected": 40.25, "realised": 41,
        "cells": [3, 3], "effective_cells": [1.6, 2.8],
        "held": [[0.8, 0.9, 1.0], [0.4, 0.7, 1.0]], "largest": [["<b>dog", 80, 20], ["cat", 5, 5]],
        "plan": {"cells": 2, "effective_cells": 1.9, "held": [0.5, 1.0, 1.0]},
    },
    {"name": "half", "kind": "top", "rows": 41, "expected": 20.5, "realised": 20},
]  # fmt: skip


@pytest.fixture
def found(tmp_path: Path) -> list[Selector]:
    url = str(tmp_path)
    file = write_bytes(url, "x", b"x")
    part = Part("all", (file,), 100, 20, {"words": 59, "half": 21}, {"selectors": FIGURES})
    artifacts.record_part(url, part, 0.0, 0.0)
    artifacts.commit(url, Spec("selection", "test"))
    return selectors(ReportContext(selection=url))


def test_sizes_expected_and_realised(found: list[Selector]) -> None:
    words, half = found
    assert (words.rows, words.expected, words.realised) == (100, 40.25, 41)
    assert (half.rows, half.expected, half.realised) == (41, 20.5, 20)
    assert (words.cells, words.even) == ([3, 3, 2], [1.6, 2.8, 1.9])
    assert not half.cells and half.chart is None and not half.largest


def test_balance_before_and_after(found: list[Selector]) -> None:
    words, _ = found
    chart = str(words.chart)
    assert all(label in chart for label in ("came", "kept by it", "kept by the plan"))
    first, second = words.largest
    assert (first.before_share, first.after_share) == (1, 0.25)
    assert (second.before, second.after, second.before_share) == (5, 5, 5 / 80)


def test_without_a_selection_there_is_none() -> None:
    assert selectors(ReportContext()) == []
