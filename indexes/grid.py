"""A grid of thumbnails for a notebook. Captions come from the web: everything is escaped."""

import html
from collections.abc import Iterable

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
