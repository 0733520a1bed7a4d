"""`serve`: its words, and the way to the web that it gives to the service."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from curation.fetch.blocklist_settings import BlocklistSettings
from curation.fetch.blocklists import Blocklists
from curation.fetch.settings import FetchSettings
from flows.serve import WebPictures
from infra.errors import SluiceError
from tests.curation.fetch.server import FaultServer, jpeg

ROOT = Path(__file__).parents[2]


def pictures(**settings: object) -> WebPictures:
    chosen = FetchSettings.model_validate(settings)
    return WebPictures(chosen, Blocklists.load(BlocklistSettings.model_validate({})))


def test_a_picture_is_fetched_as_ingest_would() -> None:
    with FaultServer() as server:
        web = pictures(allow_networks=("127.0.0.0/8",))
        assert web(server.url("/ok/3.jpg")) == jpeg(3)
        with pytest.raises(SluiceError, match="http_404"):
            web(server.url("/status/404"))
        with pytest.raises(SluiceError, match="address_refused"):
            pictures()(server.url("/ok/3.jpg"))
    with pytest.raises(SluiceError, match="bad_url"):
        pictures()("file:///etc/passwd")


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ((), "--indexes"),
        (("curated", "--host", "0.0.0.0"), "no API key"),
        (("nothing",), "no dataset 'nothing'"),
        (("curated", "--port", "99999"), "--port"),
    ],
    ids=["no name", "no key", "no dataset", "no port"],
)
def test_what_cannot_be_served_is_told(tmp_path: Path, tokens: tuple[str, ...], words: str) -> None:
    env = {name: value for name, value in os.environ.items() if name != "SLUICE_API_KEY"}
    for module in ("flows", "indexes"):
        command = [sys.executable, "-m", module, "serve", *tokens, "--store", str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
        assert done.returncode == 1 and words in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
