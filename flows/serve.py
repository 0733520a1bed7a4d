"""`serve`: indexes over HTTP, with ingest's way to the web for pictures that are asked by URL."""

import threading

from curation.fetch.blocklists import Blocklists
from curation.fetch.fetch import Fetcher
from curation.fetch.observed import Observed
from curation.fetch.settings import FetchSettings
from curation.sources.base import Record
from flows.main import Options, store_url
from flows.recipe import load_recipe
from indexes.service.choices import ServeChoices
from indexes.service.server import serve as run
from infra.errors import SluiceError

SECONDS = 10.0  # for a picture that somebody waits for, at most
WAITED_FOR = {"retries": 0, "breaker": False, "connections": 4, "per_host": 4}


class WebPictures:
    """The bytes of a picture on the web, as `ingest` would fetch it; for threads, each its own.

    Addresses that are not public, block lists, robots.txt and headers are heeded as there.
    """

    def __init__(self, settings: FetchSettings, lists: Blocklists) -> None:
        limits = {
            name: min(getattr(settings, name), SECONDS)
            for name in ("connect_timeout", "first_byte_timeout", "timeout")
        }
        self._settings = settings.model_copy(update={**WAITED_FOR, **limits})
        self._lists, self._mine = lists, threading.local()

    def __call__(self, url: str) -> bytes:
        """SluiceError says why there is no picture."""
        if not hasattr(self._mine, "fetcher"):
            self._mine.fetcher = Fetcher(self._settings, self._lists)
        (record,) = self._mine.fetcher.fetched(iter([Record("a question", url=url)]), Observed())
        if record.image is None:
            raise SluiceError(
                f"the picture at {url} was not fetched: {record.reason}",
                "send the picture itself as image",
            )
        return record.image


def serve(options: Options, names: tuple[str, ...], choices: ServeChoices) -> None:
    """Serve indexes of the store; the recipe's `data` says how pictures are fetched."""
    data = load_recipe(options.recipe, options.overrides).data
    settings = choices.settings(names, store_url(options.store))
    run(settings, WebPictures(data.fetch, Blocklists.load(data.blocklists)))
