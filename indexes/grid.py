"""Thumbnails as a grid for a notebook, and as a strip for it and for reports.

Captions come from the web: everything is escaped.
"""

import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

CAPTION = 90  # characters under a thumbnail

STYLE = """<style>
.sluice-hits{display:flex;flex-wrap:wrap;gap:10px;margin:6px 0}
.sluice-hits figure{margin:0;width:128px;font:12px/1.35 system-ui,sans-serif}
.sluice-hits .p{width:128px;height:128px;display:flex;align-items:center;justify-content:center;
background:rgba(128,128,128,.12);border-radius:6px;overflow:hidden}
.sluice-hits img{width:100%;height:100%;object-fit:contain}
.sluice-hits figcaption{margin-top:4px;overflow-wrap:anywhere}
.sluice-hits b{font-variant-numeric:tabular-nums}
.sluice-note{font:12px system-ui,sans-serif;opacity:.7}
</style>"""

# Of a page that has such variables, the colours are its own.
STRIP_STYLE = """
.film{display:flex;gap:7px;overflow-x:auto;list-style:none;margin:6px 0;padding:0 0 4px}
.film>li{flex:1 0 60px;width:60px;max-width:96px;font-size:11px;line-height:1.3;
border-top:3px solid var(--soft,#777);padding-top:3px}
.film>.in{border-color:var(--stay,#1b7f5f)}.film>.out{border-color:var(--go,#c4501b)}
.film>.cut{position:relative}.film>.cut::before{content:"";position:absolute;left:-5px;top:-3px;
bottom:0;border-left:2px dashed var(--ink,currentColor)}
.film b{display:block;font-weight:600;font-variant-numeric:tabular-nums;white-space:nowrap}
.film i{display:block;font-style:normal;opacity:.75;white-space:nowrap}
.film .p{display:block;margin-top:4px}
.film .p img,.film .p>u{display:block;width:100%;aspect-ratio:1;object-fit:contain;
border-radius:4px;background:rgba(128,128,128,.12);text-decoration:none}
.film .p bdi{display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:2;line-clamp:2;
overflow:hidden;overflow-wrap:anywhere;font-size:10px;opacity:.8;height:2.6em}
"""


class Frame(NamedTuple):
    """A step of a strip: its score, shares at it, and pictures (data URI or None, uid, caption).

    kept: whether this score passes the threshold; None where there is no threshold.
    """

    score: str
    shares: Sequence[str]
    pictures: list[tuple[str | None, str, str]]
    kept: bool | None = None


def strip(frames: Sequence[Frame]) -> str:
    """The frames side by side; a dashed line where the threshold lies. Wants STRIP_STYLE."""
    items: list[str] = []
    for place, frame in enumerate(frames):
        side = {True: "in", False: "out", None: ""}[frame.kept]
        cut = " cut" if place and frames[place - 1].kept != frame.kept else ""
        told = "".join(f"<i>{html.escape(share)}</i>" for share in frame.shares)
        shown = "".join(_picture(*picture) for picture in frame.pictures)
        items.append(f'<li class="{side}{cut}"><b>{html.escape(frame.score)}</b>{told}{shown}</li>')
    return f'<ul class="film" tabindex="0">{"".join(items)}</ul>'


def _picture(uri: str | None, uid: str, caption: str) -> str:
    words = html.escape(short(caption, CAPTION), quote=True)
    shown = (
        f'<img src="{uri}" alt="{words or "no caption"}" decoding="async">' if uri else "<u></u>"
    )
    title = html.escape(f"{uid}\n{short(caption, 500)}", quote=True)
    return f'<span class="p" title="{title}">{shown}<bdi>{words}</bdi></span>'


def figure(uri: str | None, uid: str, value: str, caption: str) -> str:
    """One picture (a data URI, or None where there is none) with a value and its caption."""
    picture = f'<img src="{uri}" alt="">' if uri else "no picture"
    title = html.escape(f"{uid}\n{short(caption, 500)}", quote=True)
    return (
        f'<figure title="{title}"><div class="p">{picture}</div>'
        f"<figcaption><b>{html.escape(value)}</b> {html.escape(short(caption, CAPTION))}"
        "</figcaption></figure>"
    )


def grid(note: str, figures: Iterable[str]) -> str:
    """The figures under a line of text; STYLE belongs before the first of them."""
    return (
        f'<div class="sluice-note">{html.escape(note)}</div>'
        f'<div class="sluice-hits">{"".join(figures)}</div>'
    )


def short(text: str, length: int) -> str:
    """One printable line: control characters of a caption do not reach a terminal."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= length else line[: length - 1] + "…"
