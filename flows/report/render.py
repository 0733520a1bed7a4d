"""The page: one template, one style sheet, everything inside one file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from flows.report.collect import Report, collect
from flows.report.context import ReportContext
from flows.report.evaluation import signed
from flows.report.fractals import write_catalogue
from flows.report.thresholds import Step
from flows.report.thumbnails import STEPS, Place, thumbnails
from indexes.grid import STRIP_STYLE, Frame, strip
from infra import charts, filesystem
from infra.filesystem import join
from infra.progress import duration, size

HERE = Path(__file__).parent
PAGE = "report/index.html"


def write_report(store: str, context: ReportContext) -> str:
    """Write the report of a run beside its curated version; the path of the page.

    Without a curated version it goes to `<store>/report/index.html`. It is no artifact: it
    holds timings, and may be written again at any time from the store alone.
    """
    folder = context.curated or store
    catalogue = write_catalogue(folder, context.fractals, fill)
    page = render(collect(store, context), catalogue)
    filesystem.write_bytes(folder, PAGE, page.encode("utf-8", "replace"))
    filesystem.remove_tree(join(folder, filesystem.TEMPORARY))
    return join(folder, PAGE)


def render(report: Report, catalogue: str | None = None) -> str:
    """The page of a run as HTML. catalogue: the page of its fractals, relative to it."""
    small = thumbnails(report.step_places(), STEPS)
    return fill(
        "template.html.jinja",
        report=report,
        catalogue=catalogue,
        pictures=thumbnails(report.places()),
        film=lambda steps: film(steps, small),
    )


def film(steps: Sequence[Step], pictures: Mapping[Place, str]) -> Markup:
    """Samples by score side by side, each step with the share that passes at it."""
    frames: list[Frame] = []
    for step in steps:
        tiles = [(t.place and pictures.get(t.place), t.uid, t.caption) for t in step.tiles]
        frames.append(Frame(step.score, [percent(step.share)], tiles, step.kept))
    return Markup(strip(frames))  # it has escaped every word


def fill(template: str, **values: Any) -> str:
    """A page as HTML; every text from outside is escaped by the template."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "number": charts.number,
        "duration": duration,
        "size": size,
        "label": charts.label,
        "signed": signed,
        "words": lambda name: name.replace("_", " "),
    }
    style = Markup((HERE / "style.css").read_text(encoding="utf-8") + STRIP_STYLE)  # no caption
    return environment.get_template(template).render(style=style, **values)


def percent(share: float, digits: int = 1) -> str:
    """A share as "12.3 %"; shares that only round to nothing or all say so."""
    if share != share:
        return "–"
    if 0 < share < 0.5 * 10 ** -(digits + 2):
        return f"< {10**-digits:g}\u00a0%"
    return f"{100 * share:.{digits}f}\u00a0%"
