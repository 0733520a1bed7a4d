"""What the explorer shows and what can be done with it, over a service that is a process."""

import re
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from playwright.sync_api import expect

from infra.dataset import open_dataset
from tests.indexes.service.explorer.conftest import PHONE, Serve, Visit
from tests.indexes.service.explorer.page import answered, asked, post, uids

pytestmark = pytest.mark.long
STATIC = Path(__file__).parents[4] / "indexes" / "service" / "static"


def test_selected_pictures_are_saved(visit: Visit, service: str, explored: str) -> None:
    page = visit(service)
    shown = uids(page)
    page.locator(".tick input").nth(1).click()
    page.locator(".tick input").nth(4).click(modifiers=["Shift"])
    page.locator(".picture").nth(7).click(modifiers=["Control"])
    expect(page.locator("#chosen")).to_have_text("5 selected")
    page.click("#keep")
    page.fill("#subset input[name=name]", "chosen")
    page.click("#subset button.main")
    expect(page.locator("#subset")).to_contain_text("5 rows as chosen@")
    saved = open_dataset(explored, "chosen")
    rows = [row for shard in saved.shards for row in saved.rows(shard).to_pylist()]
    kept = {row["uid"] for row in rows if row["status"] == "ok"}
    assert kept == {*shown[1:5], shown[7]}


def test_all_rows_of_a_condition_are_saved(visit: Visit, service: str, explored: str) -> None:
    page = visit(service, "?where=" + quote("concept = 'four'"))
    page.click("#save")
    page.fill("#subset input[name=name]", "fours")
    page.click("#subset button.main")
    expect(page.locator("#subset")).to_contain_text("rows as fours@")
    saved = open_dataset(explored, "fours")
    rows = [row for shard in saved.shards for row in saved.rows(shard).to_pylist()]
    kept = [row["caption"] for row in rows if row["status"] == "ok"]
    assert kept and all("four" in caption for caption in kept)


def test_a_service_that_saves_nothing_says_so(visit: Visit, explored: str, serve: Serve) -> None:
    page = visit(serve(explored, "curated", save=False))
    page.click("#all")
    page.click("#keep")
    page.fill("#subset input[name=name]", "refused")
    page.click("#subset button.main")
    expect(page.locator("#subset .message.bad")).to_contain_text("Way out")


def test_hostile_captions_are_texts(visit: Visit, service: str, hostile: str) -> None:
    page = visit(service, "?where=" + quote("caption like '<script>%'"))
    assert page.locator(".caption").first.text_content() == hostile
    page.locator(".picture").first.click()
    expect(page.locator("#details-title")).to_have_text(hostile)
    expect(page.locator("#details table")).to_be_visible()
    assert page.locator("main script, main .caption *, #details-title *").count() == 0
    # The same as a uid, a name or a value in an address is no markup either.
    image = "<img src=x onerror=alert(1)>"
    given = dict.fromkeys(("index", "with", "row", "columns", "k", "seed", "least"), image)
    other = visit(service, "?" + urlencode(given))
    expect(other.locator("#note")).to_contain_text(image)
    expect(other.locator("#details").get_by_role("alert")).to_contain_text(image)


def test_only_addresses_on_the_web_become_links(visit: Visit, service: str) -> None:
    page = visit(service)
    tell = """async (text) => {
      const { linked } = await import("/static/dom.js");
      const made = linked(text);
      return typeof made === "string" ? null : [made.href, made.rel];
    }"""
    for text in ("javascript:alert(1)", "data:text/html,x", "no address", " vbscript:x", "//x"):
        assert page.evaluate(tell, text) is None
    link, rel = page.evaluate(tell, "https://example.org/a?b=1")
    assert (link, rel) == ("https://example.org/a?b=1", "noopener noreferrer")


def test_keys_alone(visit: Visit, service: str) -> None:
    page = visit(service)
    page.keyboard.press("/")
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.type("a handwritten two")
    with page.expect_response(re.compile("/search$")):
        page.keyboard.press("Enter")
    answered(page)
    pictures = page.locator(".picture")
    pictures.first.focus()
    page.keyboard.press("ArrowRight")
    expect(pictures.nth(1)).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    expect(pictures.nth(1)).to_be_focused()
    outline = pictures.nth(1).evaluate("each => getComputedStyle(each).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Space")
    expect(page.locator("#chosen")).to_have_text("1 selected")
    page.keyboard.press("End")
    expect(pictures.last).to_be_focused()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(page.locator("#details")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#details .uid")).to_have_text(uids(page)[1])
    page.keyboard.press("Escape")
    expect(page.locator("#details")).to_be_hidden()
    expect(pictures.nth(1)).to_be_focused()
    page.keyboard.press("m")
    expect(page.locator("#example")).to_contain_text("like this")


def test_tab_leaves_a_picture_for_its_own_buttons(visit: Visit, service: str) -> None:
    page = visit(service)
    page.locator(".picture").first.focus()
    page.keyboard.press("ArrowRight")
    names = []
    for _ in range(3):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.getAttribute('aria-label')"))
    assert names[:2] == ["More like picture 2", "Select picture 2"]
    assert names[2] is None or "picture" not in names[2].lower()


def test_details_tell_the_verdict_and_show_duplicates(
    visit: Visit, service: str, explored: str
) -> None:
    pool = open_dataset(explored, "pool")
    twin, near = (pool.rows(0, ["uid"])["uid"][row].as_py() for row in (10, 1))
    page = visit(service, f"?row={twin}")
    details = page.locator("#details")
    expect(details.locator(".verdict")).to_contain_text("Kept")
    expect(details.locator("h3", has_text="duplicate")).to_be_visible()
    picture = details.locator(".seen img")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 48
    details.get_by_role("button", name=re.compile(near)).click()
    expect(details.locator(".verdict")).to_contain_text("Dropped near duplicate")
    expect(details.get_by_role("button", name=re.compile(f"kept twin {twin}"))).to_be_visible()
    page.keyboard.press("Escape")
    expect(details).to_be_hidden()
    assert "row" not in asked(page)


def test_more_like_what_was_dropped_asks_by_its_picture(
    visit: Visit, service: str, explored: str
) -> None:
    pool = open_dataset(explored, "pool")
    dropped = pool.rows(0, ["uid"])["uid"][2].as_py()
    page = visit(service, f"?row={dropped}")
    expect(page.locator("#details .verdict")).to_contain_text("Dropped exact duplicate")
    with page.expect_response(re.compile("/search$")):
        page.get_by_role("button", name="More like this").click()
    answered(page)
    expect(page.locator("#details")).to_be_hidden()
    assert "picture" in asked(page) and "like" not in asked(page)
    assert dropped not in uids(page)


def test_back_closes_the_details(visit: Visit, service: str) -> None:
    page = visit(service)
    page.locator(".picture").first.click()
    expect(page.locator("#details table")).to_be_visible()
    page.go_back()
    expect(page.locator("#details")).to_be_hidden()
    page.go_forward()
    expect(page.locator("#details")).to_be_visible()


def test_two_versions_are_compared(visit: Visit, service: str) -> None:
    page = visit(service, "?q=a+handwritten+one")
    page.select_option("#compare", index=1)
    expect(page.locator(".status").first).to_contain_text("only here")
    expect(page.locator(".status").nth(1)).to_contain_text("all in both")
    wide = uids(page, 1)
    known = post(service, "search", uid=wide[0], k=1000)["hits"]
    widths = {hit["uid"]: hit["width"] for hit in known}
    marked = page.locator(".card.only").evaluate_all("cards => cards.map((c) => c.dataset.uid)")
    assert marked == [uid for uid in uids(page) if widths.get(uid, 64) == 48]
    page.click("#swap")
    expect(page.locator(".pane h2").first).to_contain_text("wide@")


@pytest.mark.parametrize("query", ["", "?q=a+digit&with=wide", "?q=a+digit&dedup=0.9"])
def test_a_phone_never_scrolls_sideways(visit: Visit, service: str, query: str) -> None:
    page = visit(service, query, **PHONE)

    def wide() -> int:
        return page.evaluate("document.documentElement.scrollWidth - innerWidth")

    assert wide() == 0
    expect(page.locator(".filters")).to_be_hidden()
    page.locator("#filters > summary").tap()
    expect(page.locator(".histogram").first).to_be_visible()
    assert wide() == 0
    small = page.locator("button:visible, .tick:visible, select:visible").evaluate_all(
        "all => all.map((one) => [one.getBoundingClientRect(), one.outerHTML])"
        ".filter(([box]) => box.height < 44 || box.width < 40).map(([, text]) => text)"
    )
    assert small == []
    page.locator(".picture").first.tap()
    expect(page.locator("#details table")).to_be_visible()
    assert page.evaluate("document.querySelector('#details').scrollWidth - innerWidth") <= 0
    page.locator("#details .close").tap()
    expect(page.locator("#details")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_in_both_schemes(visit: Visit, service: str, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: a contrast of 4.5."""
    page = visit(service, "?q=a+digit", color_scheme=scheme)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", paper))) > 3 * 128
    assert light == (scheme == "light")
    for place in ("h1", ".how", ".caption", ".like", "legend", ".status"):
        colour = page.locator(place).first.evaluate("each => getComputedStyle(each).color")
        assert contrast(colour, paper) >= 4.5, place
    button = page.locator("button.main").first
    pair = button.evaluate("b => [getComputedStyle(b).color, getComputedStyle(b).backgroundColor]")
    assert contrast(*pair) >= 4.5


def contrast(one: str, other: str) -> float:
    """WCAG's contrast of two colours written `rgb(r, g, b)`."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_nothing_is_read_as_markup_or_code() -> None:
    """Of what could turn a text into markup or code, the sources use nothing."""
    banned = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc"
    for path in sorted(STATIC.glob("*.js")):
        assert not re.search(banned, path.read_text()), path.name
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"\son\w+=|\sstyle=|<script(?![^>]*\ssrc=)|https?://", page)
