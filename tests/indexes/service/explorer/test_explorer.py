"""The explorer as people use it, in a headless Chromium, over a service that is a process."""

import contextlib
import json
import re
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlparse

import pytest

from infra.dataset import open_dataset
from tests.indexes.service.explorer.conftest import (
    PHONE,
    Serve,
    Visit,
    answered,
    picture_file,
    playwright,
    uids,
)

pytestmark = pytest.mark.slow
expect = playwright.expect
STATIC = Path(__file__).parents[4] / "indexes" / "service" / "static"


def post(service: str, what: str, **body: Any) -> Any:
    request = urllib.request.Request(
        f"{service}/api/indexes/curated/{what}",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def found(service: str, **question: Any) -> list[str]:
    return [hit["uid"] for hit in post(service, "search", **question)["hits"]]


def asked(page: Any) -> dict[str, str]:
    """What the page's address says."""
    return {name: values[0] for name, values in parse_qs(urlparse(page.url).query).items()}


def ask(page: Any, text: str) -> None:
    page.fill("#text", text)
    with page.expect_response(re.compile("/search$")):
        page.press("#text", "Enter")
    answered(page)


def test_nothing_asked_shows_a_sample_and_another(visit: Visit, service: str) -> None:
    page = visit(service)
    first = uids(page)
    assert len(first) == 50
    with page.expect_response(re.compile("/sample")):
        page.click("#again")
    answered(page)
    assert uids(page) != first
    page.go_back()
    expect(page.locator(".card").first).to_have_attribute("data-uid", first[0])


def test_words_find_what_the_service_finds_and_a_link_shows_it(visit: Visit, service: str) -> None:
    page = visit(service)
    ask(page, "a handwritten three")
    expected = found(service, text="a handwritten three", k=50)
    assert uids(page) == expected
    link = page.url
    assert asked(page)["q"] == "a handwritten three"
    again = visit(link.replace("/?", "?").partition("?")[0], "?" + link.partition("?")[2])
    assert uids(again) == expected
    expect(again.locator("#text")).to_have_value("a handwritten three")


def test_example_leaves_itself_out_and_can_be_dropped(visit: Visit, service: str) -> None:
    page = visit(service)
    uid = uids(page)[0]
    with page.expect_response(re.compile("/search$")):
        page.locator(".like").first.click()
    answered(page)
    assert uids(page) == found(service, uid=uid, k=50)
    assert uid not in uids(page)
    with page.expect_response(re.compile("/sample")):
        page.click("#example button")
    assert "like" not in asked(page)


def test_near_duplicates_are_hidden(visit: Visit, service: str) -> None:
    page = visit(service, "?q=a+digit")
    with page.expect_response(re.compile("/search$")):
        page.check("#dedup")
    answered(page)
    assert uids(page) == found(service, text="a digit", k=50, dedup=0.95)
    assert asked(page)["dedup"] == "0.95"


def test_handles_of_a_histogram_make_the_condition(visit: Visit, service: str) -> None:
    page = visit(service)
    handle = page.get_by_label("Greatest clip_similarity")
    box = handle.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 14, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=6)
    with page.expect_response(re.compile("/sample.*where")):
        page.mouse.up()
    expect(page.locator("#where")).to_have_value(re.compile(r"^clip_similarity <= -?[\d.e-]+$"))
    answered(page)
    limit = float(page.input_value("#where").split()[-1])
    rows = post(service, "search", uid=uids(page)[0], k=1000)["hits"]
    values = {row["uid"]: row["clip_similarity"] for row in rows}
    assert all(values.get(uid, limit) <= limit for uid in uids(page))
    assert asked(page)["where"] == page.input_value("#where")
    # Histograms of other columns count what is left.
    few = page.locator("fieldset", has_text="width").locator(".ends .quiet")
    expect(few).not_to_have_text("114")


def test_handles_follow_keys_and_what_is_typed(visit: Visit, service: str) -> None:
    page = visit(service)
    page.get_by_label("Least clip_similarity").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#where")).to_have_value(re.compile(r"^clip_similarity >= "))
    page.fill("#where", "clip_similarity <= 0 and (width = 48 or width = 64)")
    page.click("#apply")
    expect(page.get_by_label("clip_similarity to")).to_have_value("0")
    expect(page.get_by_label("clip_similarity from")).to_have_value("")
    page.get_by_label("clip_similarity to").fill("0.5")
    page.get_by_label("clip_similarity to").press("Tab")
    wanted = "(width = 48 or width = 64) and clip_similarity <= 0.5"
    expect(page.locator("#where")).to_have_value(wanted)
    page.click("#clear")
    expect(page.locator("#where")).to_have_value("")


def test_ticks_choose_values_of_a_column(visit: Visit, service: str) -> None:
    page = visit(service)
    page.get_by_role("checkbox", name=re.compile("^three ")).check()
    expect(page.locator("#where")).to_have_value("concept in ('three')")
    page.get_by_role("checkbox", name=re.compile("^seven ")).check()
    expect(page.locator("#where")).to_have_value("concept in ('three', 'seven')")
    expect(page.locator(".status").first).to_contain_text("random picture")
    answered(page)
    for words in page.locator(".caption").all_text_contents():
        assert re.search("three|seven", words)


def test_a_wrong_condition_is_told_with_its_way_out(visit: Visit, service: str) -> None:
    page = visit(service, "?where=" + quote("colour = 'red'"), expect_hits=False)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("colour")
    expect(alert).to_contain_text("Way out: write a SQL condition")
    page.fill("#where", "width = 64")
    page.click("#apply")
    answered(page)
    expect(alert).to_have_count(0)


def test_an_empty_result_says_what_to_loosen(visit: Visit, service: str) -> None:
    page = visit(service, "?q=x&least=0.99&where=" + quote("width > 1000"), expect_hits=False)
    expect(page.locator(".status").first).to_have_text("Nothing found")
    message = page.locator(".message").first
    expect(message).to_contain_text("Loosen the condition or the least similarity")


def test_pasted_picture_finds_itself(
    visit: Visit, service: str, explored: str, tmp_path: Path
) -> None:
    page = visit(service)
    uid = uids(page)[3]
    data = list(picture_file(tmp_path, uid, explored).read_bytes())
    page.evaluate(
        """async (data) => {
          const blob = new Blob([new Uint8Array(data)], { type: "image/png" });
          await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }""",
        data,
    )
    with page.expect_response(re.compile("/search$")):
        page.keyboard.press("Control+V")
    answered(page)
    assert uids(page)[0] == uid
    assert float(page.locator(".line b").first.text_content()) > 0.999


def test_picture_and_words_are_weighed(
    visit: Visit, service: str, explored: str, tmp_path: Path
) -> None:
    page = visit(service)
    uid = uids(page)[5]
    with page.expect_response(re.compile("/search$")):
        page.set_input_files("#file", picture_file(tmp_path, uid, explored))
    answered(page)
    assert uids(page)[0] == uid
    expect(page.locator("#mix")).to_be_hidden()
    ask(page, "a handwritten nine")
    expect(page.locator("#mix")).to_be_visible()
    with page.expect_response(re.compile("/search$")):
        page.locator("#weight").fill("1")
    answered(page)
    assert uids(page)[:10] == found(service, text="a handwritten nine", k=10)
    # A link does not carry the picture, and says so.
    other = visit(service, "?" + urlparse(page.url).query, expect_hits=False)
    expect(other.locator("#note")).to_contain_text("Paste, drop or choose it again")


def test_what_is_no_picture_is_refused(visit: Visit, service: str, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"no picture at all")
    page = visit(service)
    page.set_input_files("#file", tmp_path / "cat.png")
    expect(page.locator("#note")).to_contain_text("cat.png is no picture")


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


def test_a_slow_server_is_told_and_a_late_answer_dropped(visit: Visit, service: str) -> None:
    page = visit(service)
    held: list[Any] = []
    page.route("**/search", lambda route: held.append(route), times=1)
    page.fill("#text", "first")
    page.press("#text", "Enter")
    expect(page.locator(".status").first).to_contain_text("Still searching")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    ask(page, "second")
    expected = found(service, text="second", k=50)
    assert len(held) == 1
    with contextlib.suppress(playwright.Error):  # the page itself has given it up
        held[0].continue_()
    page.wait_for_timeout(500)
    assert uids(page) == expected
    assert asked(page)["q"] == "second"


def test_stop_ends_the_wait(visit: Visit, service: str) -> None:
    page = visit(service)
    page.route("**/search", lambda route: None)  # never answered
    page.fill("#text", "first")
    page.press("#text", "Enter")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".status").first).to_have_text("Stopped")
    assert len(uids(page)) == 50  # what was shown stays


def test_a_server_that_is_gone_is_told(visit: Visit, service: str) -> None:
    page = visit(service)
    page.context.set_offline(True)
    page.fill("#text", "anything")
    page.press("#text", "Enter")
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    answered(page)


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


def test_a_key_is_asked_for_and_pictures_come_with_it(
    visit: Visit, explored: str, serve: Serve
) -> None:
    page = visit(serve(explored, "curated", key="a long and secret key"), expect_hits=False)
    page.get_by_label("API key").fill("wrong")
    page.get_by_role("button", name="Use it").click()
    expect(page.locator("#key")).to_contain_text("The key was not taken")
    page.get_by_label("API key").fill("a long and secret key")
    page.get_by_role("button", name="Use it").click()
    answered(page)
    image = page.locator(".picture img").first
    expect(image).to_have_attribute("src", re.compile("^blob:"))
    assert "secret" not in page.url


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


def test_large_numbers_are_shown_exactly(visit: Visit, service: str) -> None:
    page = visit(service)
    body = '{"hash": 15300070882174687342, "near": 9007199254740991, "half": 0.5}'
    page.route("**/large", lambda route: route.fulfill(body=body))
    read = "async () => (await import('/static/api.js')).ask(new URL('/large', location.href))"
    wanted = {"hash": "15300070882174687342", "near": 9007199254740991, "half": 0.5}
    assert page.evaluate(read) == wanted


def test_nothing_is_read_as_markup_or_code() -> None:
    """Of what could turn a text into markup or code, the sources use nothing."""
    banned = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc"
    for path in sorted(STATIC.glob("*.js")):
        assert not re.search(banned, path.read_text()), path.name
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"\son\w+=|\sstyle=|<script(?![^>]*\ssrc=)|https?://", page)
