"""A map of points as a picture: SVG for a notebook, PNG by Pillow. Nothing runs in the reader.

Colours are those of Okabe and Ito (2008), which colour-blind people tell apart, and each group has
a shape of its own as well. Captions come from the web: everything is escaped.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from indexes.grid import short
from infra.charts import number

if TYPE_CHECKING:
    from PIL import Image

SIDE, LEGEND, MARGIN, HEAD = 560, 190, 14, 30  # pixels: the map, the legend beside it, ...
ROW = 21  # pixels from one line of the legend to the next
TITLE = 90  # characters of the line above
CAPTION = 120  # characters of a point's title
SHARP = 2  # pixels of a PNG for each of an SVG

KEPT = "kept"  # blue and round. Beyond the others, dropped rows share the last.
LOOKS = [
    ("#2C84C7", "circle"),
    ("#D55E00", "triangle"),
    ("#E69F00", "square"),
    ("#CC79A7", "diamond"),
    ("#009E73", "cross"),
    ("#56B4E9", "reversed"),
    ("#7F7F7F", "bar"),
]
# Outlines in pixels around a point.
SHAPES: dict[str, list[tuple[float, float]]] = {
    "triangle": [(0, -3.4), (3.2, 2.5), (-3.2, 2.5)],
    "reversed": [(0, 3.4), (3.2, -2.5), (-3.2, -2.5)],
    "square": [(-2.4, -2.4), (2.4, -2.4), (2.4, 2.4), (-2.4, 2.4)],
    "diamond": [(0, -3.3), (3.3, 0), (0, 3.3), (-3.3, 0)],
    "bar": [(-3.3, -1.1), (3.3, -1.1), (3.3, 1.1), (-3.3, 1.1)],
    "cross": [
        *[(-1.1, -3.3), (1.1, -3.3), (1.1, -1.1), (3.3, -1.1), (3.3, 1.1), (1.1, 1.1)],
        *[(1.1, 3.3), (-1.1, 3.3), (-1.1, 1.1), (-3.3, 1.1), (-3.3, -1.1), (-1.1, -1.1)],
    ],
}
RADIUS = 2.7  # of a circle


@dataclass(frozen=True)
class Group:
    """Points that look alike. places: (x, y); titles: (uid, caption) of each."""

    name: str
    places: list[tuple[float, float]]
    titles: list[tuple[str, str | None]]


def shown(groups: Sequence[Group]) -> list[tuple[Group, str, str]]:
    """The groups with their colours and shapes; where there are too many the last are one."""
    kept = [group for group in groups if group.name == KEPT]
    dropped = [group for group in groups if group.name != KEPT]
    room = len(LOOKS) - 1
    if len(dropped) > room:
        rest = dropped[room - 1 :]
        places = [place for group in rest for place in group.places]
        titles = [(f"{uid} {group.name}", words) for group in rest for uid, words in group.titles]
        dropped = [*dropped[: room - 1], Group(f"{len(rest)} other reasons", places, titles)]
    looks = [LOOKS[0]] * len(kept) + LOOKS[1:]
    return [(group, *look) for group, look in zip([*kept, *dropped], looks, strict=False)]


def placed(groups: Sequence[Group]) -> list[list[tuple[float, float]]]:
    """The points of each group in pixels of the picture; both axes have one scale."""
    every = [place for group in groups for place in group.places]
    xs, ys = [x for x, _ in every], [y for _, y in every]
    span = max(max(xs) - min(xs), max(ys) - min(ys)) or 1.0
    room = SIDE - 2 * MARGIN
    left = MARGIN + (room - (max(xs) - min(xs)) / span * room) / 2
    top = HEAD + MARGIN + (room - (max(ys) - min(ys)) / span * room) / 2
    return [
        [
            (left + (x - min(xs)) / span * room, top + (max(ys) - y) / span * room)
            for x, y in group.places
        ]
        for group in groups
    ]


def svg(title: str, groups: Sequence[Group], standalone: bool = False) -> str:
    """The map as one SVG element, points with their captions as titles.

    standalone: a file of its own, with a white ground.
    """
    looks = shown(groups)
    places = placed([group for group, _, _ in looks])
    counts = ", ".join(f"{len(group.places)} {group.name}" for group, _, _ in looks)
    width, height = SIDE + LEGEND, SIDE + HEAD
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" style="max-width:100%;height:auto" font-family="system-ui,sans-serif" '
        f'font-size="13" fill="currentColor" role="img" '
        f'aria-label="{html.escape(short(f"{title}: {counts}", 500))}">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>' if standalone else "",
        f'<text x="{MARGIN}" y="20" font-weight="600">{html.escape(short(title, TITLE))}</text>',
    ]
    for group_places, (group, colour, shape) in zip(places, looks, strict=True):
        strength = 0.75 if shape == "circle" else 0.85
        parts.append(f'<g fill="{colour}" fill-opacity="{strength}">')
        for place, (uid, caption) in zip(group_places, group.titles, strict=True):
            words = f"{group.name} · {short(uid, 60)}\n{short(caption or '', CAPTION)}"
            parts.append(_mark(shape, place, f"<title>{html.escape(words)}</title>"))
        parts.append("</g>")
    for row, (group, colour, shape) in enumerate(looks):
        y = HEAD + MARGIN + 8 + ROW * row
        mark = _mark(shape, (SIDE + 12, y - 4.5), "")
        words = html.escape(group.name.replace("_", " "))
        parts.append(
            f'<g fill="{colour}">{mark}</g><text x="{SIDE + 24}" y="{y}">{words}'
            f'<tspan dx="7" fill-opacity=".65">{number(len(group.places))}</tspan></text>'
        )
    return "".join([*parts, "</svg>"])


def _mark(shape: str, place: tuple[float, float], inside: str) -> str:
    x, y = place
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}">{inside}</circle>'
    (start_x, start_y), *others = SHAPES[shape]
    lines = "".join(f"L{x + dx:.1f} {y + dy:.1f}" for dx, dy in others)
    return f'<path d="M{x + start_x:.1f} {y + start_y:.1f}{lines}z">{inside}</path>'


def draw(title: str, groups: Sequence[Group]) -> "Image.Image":
    """The map as a picture with a white ground, SHARP times as large as the SVG."""
    from PIL import Image, ImageColor, ImageDraw, ImageFont

    looks = shown(groups)
    size = (SHARP * (SIDE + LEGEND), SHARP * (SIDE + HEAD))
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture, "RGBA")
    font = ImageFont.load_default(13 * SHARP)

    def mark(shape: str, place: tuple[float, float], colour: tuple[int, ...]) -> None:
        x, y = SHARP * place[0], SHARP * place[1]
        if shape == "circle":
            reach = RADIUS * SHARP
            pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)
        else:
            pen.polygon([(x + SHARP * dx, y + SHARP * dy) for dx, dy in SHAPES[shape]], colour)

    pen.text((SHARP * MARGIN, SHARP * 7), short(title, TITLE), "black", font)
    places = placed([group for group, _, _ in looks])
    for row, (group_places, (group, name, shape)) in enumerate(zip(places, looks, strict=True)):
        colour = ImageColor.getrgb(name)
        for place in group_places:
            mark(shape, place, (*colour, 190 if shape == "circle" else 217))
        y = HEAD + MARGIN + 8 + ROW * row
        mark(shape, (SIDE + 12, y - 4.5), (*colour, 255))
        words = f"{group.name.replace('_', ' ')}  {number(len(group.places))}"
        pen.text((SHARP * (SIDE + 24), SHARP * (y - 12)), short(words, 40), "black", font)
    return picture
