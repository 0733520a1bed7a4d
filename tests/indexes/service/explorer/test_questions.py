"""What can be asked of the explorer, over a service that is a process."""

import contextlib
import re
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlparse

import pytest
from playwright.sync_api import Error, expect

from tests.indexes.service.conftest import make_judged, publish_version
from tests.indexes.service.explorer.conftest import Serve, Visit
from tests.indexes.service.explorer.page import (
    answered,
    ask,
    asked,
    found,
    picture_file,
    post,
    uids,
)

pytestmark = pytest.mark.long


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


def test_a_wrong_condition_leaves_the_histograms(visit: Visit, service: str) -> None:
    page = visit(service, "?where=" + quote("colour = 'red'"), expect_hits=False)
    expect(page.get_by_role("alert")).to_have_count(1)
    expect(page.locator(".histogram").first).to_be_visible()
    expect(page.locator("#columns")).not_to_contain_text("colour")


def test_a_value_beyond_the_frequent_ones_can_be_left_again(visit: Visit, service: str) -> None:
    where = "caption in ('a handwritten six, number 6', 'nothing like it')"
    page = visit(service, f"?where={quote(where)}&columns=format", expect_hits=False)
    expect(page.locator("#columns legend")).to_have_count(1)  # captions are no values to tick
    page = visit(service, "?columns=concept&where=" + quote("concept in ('teapot')"), False)
    first = page.locator(".values li").first
    expect(first).to_contain_text("teapot")
    first.get_by_role("checkbox").uncheck()
    expect(page.locator("#where")).to_have_value("")


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
    assert uid in uids(page)[:3]  # the tiny model tells few pictures from all others
    assert float(page.locator(".line b").first.text_content()) > 0.999


def test_dropped_picture_finds_itself(
    visit: Visit, service: str, explored: str, tmp_path: Path
) -> None:
    page = visit(service)
    uid = uids(page)[4]
    data = list(picture_file(tmp_path, uid, explored).read_bytes())
    held = page.evaluate_handle(
        """(data) => {
          const held = new DataTransfer();
          held.items.add(new File([new Uint8Array(data)], "a.png", { type: "image/png" }));
          return held;
        }""",
        data,
    )
    page.dispatch_event("main", "dragover", {"dataTransfer": held})
    expect(page.locator("#drop")).to_be_visible()
    with page.expect_response(re.compile("/search$")):
        page.dispatch_event("main", "drop", {"dataTransfer": held})
    expect(page.locator("#drop")).to_be_hidden()
    expect(page.locator("#example")).to_contain_text("a.png")
    answered(page)
    assert uid in uids(page)[:3]  # the tiny model tells few pictures from all others
    assert float(page.locator(".line b").first.text_content()) > 0.999


def test_picture_and_words_are_weighed(
    visit: Visit, service: str, explored: str, tmp_path: Path
) -> None:
    page = visit(service)
    uid = uids(page)[5]
    with page.expect_response(re.compile("/search$")):
        page.set_input_files("#file", picture_file(tmp_path, uid, explored))
    answered(page)
    assert uid in uids(page)[:3]
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
    with contextlib.suppress(Error):  # the page itself has given it up
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


def test_a_busy_server_is_asked_again(visit: Visit, service: str) -> None:
    page = visit(service)
    busy = {"status": 503, "headers": {"Retry-After": "1"}, "body": "{}"}
    page.route("**/search", lambda route: route.fulfill(**busy), times=2)
    page.fill("#text", "a digit")
    page.press("#text", "Enter")
    expect(page.locator(".status").first).to_contain_text("The server is busy")
    expect(page.locator(".card").first).to_have_attribute(
        "data-uid", found(service, text="a digit", k=1)[0]
    )


def test_a_newer_version_takes_over(
    visit: Visit, serve: Serve, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = make_judged(tmp_path_factory.mktemp("followed"), shards=1)
    base = serve(store, "curated", follow=0.5)
    page = visit(base)
    old = page.input_value("#index")
    new = publish_version(store, 1, "second")
    deadline = time.monotonic() + 60
    while new.digest not in urllib.request.urlopen(f"{base}/api/indexes").read().decode():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    page.fill("#text", "a digit")
    page.press("#text", "Enter")
    expect(page.locator("#note")).to_contain_text(f"This server does not hold {old}")
    expect(page.locator("#index")).to_have_value(f"curated@{new.digest}")
    answered(page)


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


def test_large_numbers_are_shown_exactly(visit: Visit, service: str) -> None:
    page = visit(service)
    body = '{"hash": 15300070882174687342, "near": 9007199254740991, "half": 0.5, "edge": 1.8e19}'
    page.route("**/large", lambda route: route.fulfill(body=body))
    read = "async () => (await import('/static/api.js')).ask(new URL('/large', location.href))"
    wanted = {"hash": "15300070882174687342", "near": 9007199254740991, "half": 0.5, "edge": 1.8e19}
    assert page.evaluate(read) == wanted
