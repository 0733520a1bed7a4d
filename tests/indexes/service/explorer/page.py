"""What tests do with the explorer's page, and what its service answers to the same."""

import json
import re
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

from playwright.sync_api import expect

import indexes


def answered(page: Any) -> Any:
    """Wait until the answer is drawn; returns the cards."""
    expect(page.locator(".pane").first).not_to_have_attribute("aria-busy", "true")
    cards = page.locator(".pane").first.locator(".card:not(.empty)")
    cards.first.wait_for()
    return cards


def uids(page: Any, pane: int = 0) -> list[str]:
    """The uids that are shown, in order."""
    cards = page.locator(".pane").nth(pane).locator(".card")
    return cards.evaluate_all("cards => cards.map((card) => card.dataset.uid)")


def picture_file(folder: Path, uid: str, store: str) -> Path:
    """The picture of a row of `curated` as a file."""
    path = folder / "query.png"
    indexes.open(f"{store}/curated").sample(1, where=f"uid = '{uid}'").image(0).save(path)
    return path


def post(service: str, what: str, **body: Any) -> Any:
    """What the service answers of `curated`."""
    request = urllib.request.Request(
        f"{service}/api/indexes/curated/{what}",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def found(service: str, **question: Any) -> list[str]:
    """The uids that the service finds."""
    return [hit["uid"] for hit in post(service, "search", **question)["hits"]]


def asked(page: Any) -> dict[str, str]:
    """What the page's address says."""
    return {name: values[0] for name, values in parse_qs(urlparse(page.url).query).items()}


def ask(page: Any, text: str) -> None:
    """Search by words, and wait for the answer."""
    page.fill("#text", text)
    with page.expect_response(re.compile("/search$")):
        page.press("#text", "Enter")
    answered(page)
