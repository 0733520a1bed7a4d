"""A service as a process, and the explorer in a headless Chromium.

Playwright drives the Chromium of the system; nothing is downloaded.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

import indexes
from indexes.settings import IndexSettings
from tests.indexes.conftest import make_index
from tests.indexes.service.conftest import make_judged
from tests.indexes.service.explorer.page import answered

WAIT = 30_000  # ms; the machine may be busy
expect.set_options(timeout=WAIT)
PLAIN = {"width": 1280, "height": 900}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}

Serve = Callable[..., str]
Visit = Callable[..., Any]


@pytest.fixture(scope="session")
def explored(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with `curated` and `wide`, a part of it, both indexed."""
    store = make_judged(tmp_path_factory.mktemp("explored"))
    indexes.open(f"{store}/curated").subset("wide", where="width = 64")
    make_index(store, "wide", IndexSettings())
    return store


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    """Starts services over a store and returns their addresses; ends them at the end."""
    running: list[subprocess.Popen[str]] = []

    def start(
        store: str, *names: str, key: str | None = None, save: bool = True, follow: float = 0
    ) -> str:
        command = [sys.executable, "-m", "indexes", "serve", *names, "--store", store]
        command += ["--port", "0", "--follow", str(follow), *(["--allow-save"] if save else [])]
        environment = {k: v for k, v in os.environ.items() if k != "SLUICE_API_KEY"}
        if key is not None:
            environment["SLUICE_API_KEY"] = key
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        running.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()  # "serving http://127.0.0.1:PORT"
        assert line.startswith("serving "), "the service did not start"
        return line.split()[1]

    yield start
    for process in running:
        process.terminate()
    for process in running:
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def service(explored: str, serve: Serve) -> str:
    return serve(explored, "curated", "wide")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if path is None:
        pytest.skip("no Chromium on this system: apt install chromium")
    with sync_playwright() as driver:
        # Chromium's sandbox refuses root, as which containers run.
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Visit]:
    """Opens the explorer at an address. No script may fail, no other host may be asked."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def open_page(base: str, query: str = "", expect_hits: bool = True, **options: Any) -> Any:
        settings = {"viewport": PLAIN, "permissions": ["clipboard-read", "clipboard-write"]}
        context = chromium.new_context(**{**settings, **options})
        contexts.append(context)
        context.set_default_timeout(WAIT)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (wrong.append("a dialog of a script"), dialog.dismiss()))
        page.on("request", lambda request: wrong.extend(_elsewhere(request.url, base)))
        page.on("console", lambda message: wrong.extend(_refused(message.text)))
        page.goto(f"{base}/{query}")
        if expect_hits:
            answered(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def _elsewhere(url: str, base: str) -> list[str]:
    own = url.startswith((base + "/", "data:", "blob:"))
    return [] if own else [f"asked {url}"]


def _refused(message: str) -> list[str]:
    return [message] if "Content Security Policy" in message else []
