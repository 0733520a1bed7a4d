import io
import re
import subprocess
import sys
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.report import ReportContext, write_report
from flows.report.collect import collect
from flows.report.galleries import Strip
from flows.report.render import percent, render
from flows.report.samples import Tile
from flows.report.thresholds import Step
from flows.report.thumbnails import STEPS, TILES, Place
from infra.digests import generator
from infra.progress import size
from tests.flows.report import conftest

VOID = {"meta", "link", "img", "br"}
SECTIONS = 13


class Page(HTMLParser):
    """The elements of a page, and whether they are nested as they should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def text(made: tuple[str, ReportContext]) -> str:
    store, context = made
    path = Path(write_report(store, context))
    assert str(path) == f"{context.curated}/report/index.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_nothing_is_loaded_from_elsewhere(page: Page, text: str) -> None:
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "img-src data:;" in policy
    tags = {name for name, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "embed", "form", "base", "video", "audio"}
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "xlink:href"):
                assert value is not None
                assert value.startswith(("#", "data:"))
    assert "url(" not in text
    assert "@import" not in text


def test_captions_stay_text(page: Page, text: str) -> None:
    assert "&lt;/style&gt;&lt;script&gt;alert(" in text
    assert "\u202e" not in text
    assert "\x00" not in text
    assert all(attributes.get("src") != "x" for attributes in page.all("img"))


def test_every_section_is_there_and_can_be_reached(page: Page) -> None:
    anchors = [link["href"] for link in page.all("a") if link["href"]]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert len(page.all("section")) == SECTIONS
    assert {anchor[1:] for anchor in anchors if anchor} == {
        section["id"] for section in page.all("section")
    }
    assert "not part of this run" not in " ".join(page.text)


def test_pictures_are_small_and_described(page: Page, text: str) -> None:
    pictures = page.all("img")
    assert len(pictures) > 60
    for picture in pictures:
        assert (picture["src"] or "").startswith("data:image/webp;base64,")
        assert picture["alt"]
    assert len(text) < 4_000_000


def test_samples_stand_by_score_at_every_threshold(page: Page, text: str) -> None:
    films = [ul for ul in page.all("ul") if ul.get("class") == "film"]
    assert len(films) == 4  # of four rules with a bound
    classes = [li.get("class") or "" for li in page.all("li")]
    assert sum("cut" in each for each in classes) == 4  # one threshold in each
    assert {"in", "out", "in cut", "out cut"} <= set(classes)
    assert "nats, higher is better" in text


def test_the_page_is_bounded_however_many_rules_and_however_noisy_the_pictures(
    made: tuple[str, ReportContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conftest, "picture", noise)
    rows = 20 * 39
    pool = conftest.make_dataset(str(tmp_path), "noise", conftest.plan(1, rows))
    tiles = [Tile(Place(pool.url, 0, row), f"{row:032x}", "words " * 26) for row in range(rows)]
    report = collect(*made)
    rules = [
        replace(report.thresholds[0], steps=[
            Step("1", 0.5, True, tiles[start : start + 3]) for start in range(rule, rule + 39, 3)
        ])
        for rule in range(0, rows, 39)
    ]  # fmt: skip
    strip = Strip("Kept", tiles[: TILES.pictures])
    page = render(replace(report, thresholds=rules, rungs=(), galleries=(), kept=strip))
    assert page.count("data:image/webp") > 300
    assert len(page) < TILES.bytes + STEPS.bytes + 1_500_000
    assert page.count("<u></u>") > 300  # beyond the budget a strip has placeholders


def noise(number: int, defect: str) -> bytes:
    image = Image.fromarray(generator(number, defect).integers(0, 256, (96, 96, 3), np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def test_charts_are_described(page: Page) -> None:
    charts = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(charts) > 8
    assert all(chart["aria-label"] for chart in charts)


def test_it_says_which_embedding_model_was_used(page: Page) -> None:
    assert "A filter network of 3.9 million parameters, trained on the trusted split." in page.text


def test_counts_and_answer_are_shown(made: tuple[str, ReportContext], page: Page) -> None:
    report = collect(*made)
    said = " ".join(" ".join(page.text).split())
    assert report.funnel is not None
    assert f"{report.funnel.kept:,}" in said
    assert "It balances in each of the 3 shards" in said
    assert "+8.0 points 95 % interval +5.0 to +11.0" in said


def test_the_same_store_gives_the_same_page(made: tuple[str, ReportContext], text: str) -> None:
    assert render(collect(*made)) == text


def test_an_empty_run_gets_a_page(tmp_path: Path) -> None:
    path = write_report(str(tmp_path), ReportContext())
    assert path == f"{tmp_path}/report/index.html"
    page = Page(Path(path).read_text(encoding="utf-8"))
    said = " ".join(page.text)
    assert said.count("not part of this run") == SECTIONS - 1  # the answer is "Not measured."
    assert "Not measured." in said
    assert "was not told which embedding model" in said


OPTIONAL = [
    field.name
    for field in fields(ReportContext)
    if field.name not in ("name", "filter_model", "filter_trained", "compare")
]


@pytest.mark.parametrize("name", OPTIONAL)
def test_whatever_is_missing_does_not_stop_it(made: tuple[str, ReportContext], name: str) -> None:
    store, context = made
    collections = ("scores", "runs", "captions", "recipe", "steps")
    empty = type(getattr(context, name))() if name in collections else None
    Page(render(collect(store, replace(context, **{name: empty}))))


@pytest.mark.parametrize("name", ["pool", "curated", "verdicts", "edges", "evaluation", "canaries"])
def test_what_a_context_names_but_the_store_lacks(
    made: tuple[str, ReportContext], name: str
) -> None:
    store, context = made
    Page(render(collect(store, replace(context, **{name: f"{store}/nowhere"}))))


def test_no_heavy_import() -> None:
    code = (
        "import sys, flows.report\n"
        "heavy = {'torch', 'prefect', 'ray', 'matplotlib', 'pandas', 'timm', 'open_clip'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_style_names_only_colours_it_defines() -> None:
    style = (Path(sys.modules["flows.report"].__file__ or "").parent / "style.css").read_text()
    defined = set(re.findall(r"(--[a-z0-9-]+):", style))
    assert set(re.findall(r"var\((--[a-z0-9-]+)", style)) <= defined


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.1234, "12.3\u00a0%"), (0.0, "0.0\u00a0%"), (1.0, "100.0\u00a0%"), (1e-5, "< 0.1\u00a0%"),
     (float("nan"), "–")],
)  # fmt: skip
def test_percent(share: float, shown: str) -> None:
    assert percent(share) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000_000, "2 GB")]
)
def test_size(count: int, shown: str) -> None:
    assert size(count) == shown
