import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import charts

FINITE = st.floats(-1e9, 1e9, allow_nan=False)


@given(FINITE, st.floats(1e-6, 1e9))
def test_ticks_are_inside_and_few(low: float, width: float) -> None:
    high = low + width
    if high <= low:
        return
    ticks = charts.nice_ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), width)
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    assert len(ticks) <= 6


@given(st.floats(1e-6, 1e6), st.floats(1.01, 1e6), st.lists(FINITE, max_size=20))
def test_an_axis_keeps_order_and_bounds(low: float, factor: float, values: list[float]) -> None:
    for log in (False, True):
        axis = charts.Axis(low, low * factor, 40, 300, log)
        places = [axis(value) for value in sorted(values)]
        assert places == sorted(places)
        assert all(40 <= place <= 300 for place in places)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.12345, "0.123"), (-0.5, "−0.5"), (12.0, "12"), (1234.6, "1,235"),
     (0.00123, "0.00123"), (None, "–"), (math.inf, "–")],
)  # fmt: skip
def test_number(value: float | None, shown: str) -> None:
    assert charts.number(value) == shown


def test_a_line_chart_is_well_formed_and_escapes() -> None:
    chart = charts.line_chart(
        "<b>title</b>",
        [charts.Line('"><script>', [0, 1, 2], [1, math.nan, 3]), charts.Line("one", [1], [2])],
        "x < y",
        "y & z",
        marks=[charts.Mark("<i>", 1)],
        rugs=[charts.Rug("rug", [0.5, math.nan])],
    )
    figure = ElementTree.fromstring(str(chart).replace("&#34;", "&quot;"))
    assert figure.find(".//script") is None
    assert [element.text for element in figure.iter("strong")] == ["<b>title</b>"]
    points = next(figure.iter("polyline")).attrib["points"].split()
    assert len(points) == 2


@pytest.mark.parametrize("lines", [[], [charts.Line("empty", [], [])]])
def test_a_chart_of_nothing_is_drawn(lines: list[charts.Line]) -> None:
    ElementTree.fromstring(str(charts.line_chart("t", lines, "x", "y")))
    ElementTree.fromstring(str(charts.interval_chart("t", [], "x")))


def test_differences_are_drawn_around_zero() -> None:
    rows = [charts.Interval("a", 0.08, 0.05, 0.11), charts.Interval("b", -0.02, -0.04, 0.01)]
    figure = ElementTree.fromstring(str(charts.interval_chart("t", rows, "x", signed=True)))
    zero = next(line for line in figure.iter("line") if line.attrib["class"] == "zero")
    dots = [float(dot.attrib["cx"]) for dot in figure.iter("circle")]
    assert dots[1] < float(zero.attrib["x1"]) < dots[0]
    assert "+8.0" in "".join(figure.itertext())


@given(st.lists(FINITE, min_size=1, max_size=400))
def test_smoothing_and_thinning_stay_within_the_curve(values: list[float]) -> None:
    calm = charts.smooth(values)
    assert len(calm) == len(values)
    assert min(values) - 1e-3 <= min(calm) <= max(calm) <= max(values) + 1e-3
    x, y = charts.thin(range(len(values)), values)
    assert len(x) == len(y) <= charts.POINTS
    assert (x[0], x[-1]) == (0, len(values) - 1)
