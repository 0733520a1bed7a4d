"""Small charts as inline SVG: lines, intervals; colours are CSS variables of the page.

Nothing here runs in the reader's browser. Every chart has a title and a description for
screen readers; every text from outside is escaped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from markupsafe import Markup

WIDTH, HEIGHT = 320, 200  # view box; near the size on screen, so that text keeps its size
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 18, 34
COLOURS = 6  # of the style sheet
POINTS = 240  # more points than this cannot be told apart at this width


Numbers = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Line:
    """One series; `colour` is 1 to 6, `style` "solid", "dashed" or "faint"."""

    label: str
    x: Numbers
    y: Numbers
    colour: int = 1
    style: str = "solid"


@dataclass(frozen=True)
class Mark:
    """A vertical line at `x`, such as the chosen threshold."""

    label: str
    x: float


@dataclass(frozen=True)
class Rug:
    """Ticks along the x axis, one per value; without a label it is a line's own values."""

    label: str
    x: Numbers
    colour: int = 2


@dataclass(frozen=True)
class Interval:
    """A value with its interval; `muted` for a baseline."""

    label: str
    value: float
    low: float
    high: float
    muted: bool = False


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic map from [low, high] to the pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, place = self.low, self.high, value
        if self.log:
            low, high, place = math.log10(low), math.log10(high), math.log10(max(value, 1e-300))
        share = (place - low) / (high - low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, count: int = 4) -> list[float]:
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            dense = len(powers) < 4
            found = [10.0**p * m for p in powers for m in ((1, 2, 5) if dense else (1,))]
            found = [tick for tick in found if self.low <= tick <= self.high * 1.0001]
            return found[:: max(1, math.ceil(len(found) / (count + 2)))]
        return nice_ticks(self.low, self.high, count)


NAMES = {
    "zero_shot": "Zero-shot",
    "knn": "k-nearest neighbours",
    "linear_probe": "Linear probe",
    "clip": "CLIP",
    "dino": "DINO",
    "mae": "MAE",
}


def label(name: str) -> str:
    """A task, metric or objective as people say it."""
    return NAMES.get(name, name.replace("_", " "))


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * k for k in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float | None) -> str:
    """A number for people: thousands grouped, at most three significant decimals."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 999.5 or float(value).is_integer():
        return f"{value:,.0f}".replace("-", "−")
    digits = max(0, 2 - math.floor(math.log10(size)))
    text = f"{value:.{min(digits, 6)}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def short(value: float) -> str:
    """A number for an axis: 12k, 3M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return number(round(value / (1e3 if unit == "k" else limit), 2)) + unit
    return number(value)


def thin(x: Numbers, y: Numbers) -> tuple[list[float], list[float]]:
    """At most POINTS of the points of a curve, first and last among them."""
    count = min(len(x), POINTS)
    keep = np.linspace(0, len(x) - 1, count).round().astype(int)
    return [float(x[i]) for i in keep], [float(y[i]) for i in keep]


def smooth(y: Numbers) -> list[float]:
    """A centred moving average over a twentieth of the curve; a short curve stays as it is."""
    half = len(y) // 40
    return [fmean(y[max(0, i - half) : i + half + 1]) for i in range(len(y))]


def line_chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    marks: Sequence[Mark] = (),
    rugs: Sequence[Rug] = (),
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    log_x: bool = False,
    percent: bool = False,
) -> Markup:
    """A chart of curves with axes, a legend, vertical marks and rugs; a `<figure>`."""
    xs = [float(x) for line in lines for x in line.x] or [0.0, 1.0]
    ys = [float(y) for line in lines for y in line.y if math.isfinite(y)] or [0.0, 1.0]
    x_low, x_high = _widen(x_range or (min(xs), max(xs)))
    y_low, y_high = _widen(y_range or _padded(min(ys), max(ys)))
    bottom = HEIGHT - BOTTOM - (6 * len(rugs))
    x_axis = Axis(x_low, x_high, LEFT, WIDTH - RIGHT, log_x)
    y_axis = Axis(y_low, y_high, bottom, TOP)
    body = [_y_grid(y_axis, percent), _x_grid(x_axis, HEIGHT - BOTTOM)]
    body += [_rug(rug, x_axis, bottom + 3 + 6 * place) for place, rug in enumerate(rugs)]
    body += [_curve(line, x_axis, y_axis) for line in lines]
    body += [_mark(mark, x_axis, bottom) for mark in marks]
    body.append(
        Markup('<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            (LEFT + WIDTH - RIGHT) // 2, HEIGHT - 3, x_label
        )
    )
    keys = [(line.label, line.colour, line.style) for line in lines if line.style != "faint"]
    keys += [(rug.label, rug.colour, "rug") for rug in rugs if rug.label]
    description = "; ".join(
        f"{line.label}: {number(line.y[0])} to {number(line.y[-1])}"
        for line in lines
        if len(line.y)
    )
    return _figure(title, y_label, keys, description, HEIGHT, body)


def interval_chart(
    title: str, rows: Sequence[Interval], x_label: str, signed: bool = False
) -> Markup:
    """Values with their intervals, one row each, in percent of 1; a `<figure>`.

    signed: values are differences, shown in points around a line at zero.
    """
    longest = max([len(row.label) for row in rows], default=0)
    left, step = min(150, 16 + 6 * longest), 22
    height = 14 + step * len(rows) + 34
    bounds: list[float] = [0.0] if signed else []
    bounds += [bound for row in rows for bound in (row.low, row.high)]
    low, high = min(bounds, default=0.0), max(bounds, default=1.0)
    pad = 0.06 * (high - low)
    limits = (low - pad, high + pad) if signed else (max(0.0, low - pad), min(1.0, high + pad))
    axis = Axis(*_widen(limits), left, WIDTH - 50)
    bottom = 8 + step * len(rows)
    body = []
    for tick in axis.ticks():
        kind = "zero" if signed and abs(tick) < 1e-9 else "grid"
        body.append(
            Markup(
                '<line class="{4}" x1="{0}" x2="{0}" y1="4" y2="{1}"/>'
                '<text x="{0}" y="{2}" text-anchor="middle">{3}{5}</text>'
            ).format(
                _px(axis(tick)),
                bottom,
                bottom + 14,
                number(round(100 * tick, 6)),
                kind,
                "" if signed else "\u00a0%",
            )
        )
    for place, row in enumerate(rows):
        body.append(_interval(row, axis, 8 + step * place + step / 2, left, signed))
    body.append(
        Markup('<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            _px((axis.start + axis.end) / 2), height - 5, x_label
        )
    )
    description = "; ".join(
        f"{row.label}: {100 * row.value:.1f}\u00a0% ({100 * row.low:.1f} to {100 * row.high:.1f})"
        for row in rows
    )
    return _figure(title, "", (), description, height, body)


def _figure(
    title: str,
    subtitle: str,
    keys: Sequence[tuple[str, int, str]],
    description: str,
    height: int,
    body: Sequence[Markup],
) -> Markup:
    legend = Markup("").join(
        Markup('<span class="key c{} {}">{}</span>').format(colour, style, label)
        for label, colour, style in keys
    )
    head = Markup("<strong>{}</strong>").format(title)
    if subtitle:
        head += Markup(' <span class="axis">{}</span>').format(subtitle)
    if legend:
        head += Markup('<span class="legend">{}</span>').format(legend)
    return Markup(
        '<figure class="chart"><figcaption>{}</figcaption>'
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}"><desc>{}</desc>{}</svg></figure>'
    ).format(head, WIDTH, height, title, description, Markup("").join(body))


def _y_grid(axis: Axis, percent: bool) -> Markup:
    lines = []
    for tick in axis.ticks():
        label = f"{number(100 * tick)}\u00a0%" if percent else short(tick)
        lines.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>'
                '<text x="{}" y="{}" text-anchor="end">{}</text>'
            ).format(
                LEFT, WIDTH - RIGHT, y := _px(axis(tick)), y, LEFT - 5, _px(axis(tick) + 3.5), label
            )
        )
    return Markup("").join(lines)


def _x_grid(axis: Axis, bottom: float) -> Markup:
    ticks = [
        Markup(
            '<line class="tick" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>'
            '<text x="{0}" y="{3}" text-anchor="middle">{4}</text>'
        ).format(_px(axis(tick)), bottom, bottom + 4, bottom + 15, short(tick))
        for tick in axis.ticks()
    ]
    line = Markup('<line class="axis-line" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
        LEFT, WIDTH - RIGHT, bottom, bottom
    )
    return line + Markup("").join(ticks)


def _curve(line: Line, x_axis: Axis, y_axis: Axis) -> Markup:
    points = [
        f"{_px(x_axis(x))},{_px(y_axis(y))}"
        for x, y in zip(*thin(line.x, line.y), strict=True)
        if math.isfinite(y)
    ]
    return Markup('<polyline class="line c{} {}" points="{}"/>').format(
        line.colour, line.style, " ".join(points)
    )


def _rug(rug: Rug, axis: Axis, top: float) -> Markup:
    places = sorted({_px(axis(x)) for x in rug.x if math.isfinite(x)})
    path = "".join(f"M{x} {_px(top)}v5" for x in places)
    return Markup('<path class="rug c{}" d="{}"/>').format(rug.colour, path)


def _mark(mark: Mark, axis: Axis, bottom: float) -> Markup:
    x = axis(mark.x)
    anchor = "start" if x < LEFT + 60 else "end" if x > WIDTH - RIGHT - 60 else "middle"
    return Markup(
        '<line class="mark" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>'
        '<text class="mark-label" x="{0}" y="{3}" text-anchor="{4}">{5}</text>'
    ).format(_px(x), TOP - 4, bottom, TOP - 7, anchor, mark.label)


def _interval(row: Interval, axis: Axis, y: float, left: float, signed: bool) -> Markup:
    kind = "muted" if row.muted else "c1"
    value = (
        f"{100 * row.value:+.1f}".replace("-", "−") if signed else f"{100 * row.value:.1f}\u00a0%"
    )
    return Markup(
        '<text x="{0}" y="{1}" text-anchor="end" class="{2}">{3}</text>'
        '<line class="whisker {2}" x1="{4}" x2="{5}" y1="{6}" y2="{6}"/>'
        '<circle class="dot {2}" cx="{7}" cy="{6}" r="4"/>'
        '<text class="value" x="{8}" y="{1}" text-anchor="end">{9}</text>'
    ).format(
        left - 8,
        _px(y + 3.5),
        kind,
        row.label,
        _px(axis(row.low)),
        _px(axis(row.high)),
        _px(y),
        _px(axis(row.value)),
        WIDTH - 2,
        value,
    )


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = (high - low) * 0.06
    return low - pad, high + pad


def _widen(limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
