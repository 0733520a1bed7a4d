"""Every request to a remote store goes through `ask`: again while it may pass, counted, told.

Waits are drawn from zero to a bound that doubles (full jitter), so that a thousand workers whom
one 503 sends away do not come back together. $SLUICE_RETRY_SECONDS bounds the time from the first
failure on; 0 is one try.
"""

import math
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from fsspec.implementations.local import LocalFileSystem

from infra.errors import SluiceError
from infra.filesystem.failures import REMOTE, answer, is_transient, kind, why
from infra.filesystem.urls import resolve

TRIES = 12
SECONDS = 180.0
STRANGER = 20.0  # seconds for a store that has not answered this process yet: a mistyped endpoint
FIRST, LONGEST = 0.2, 20.0  # the bound of the first wait, and of the later ones, in seconds
VARIABLE = "SLUICE_RETRY_SECONDS"
JITTER = random.SystemRandom()  # no seed of the work's own may be touched, nor shared by forks
ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)

T = TypeVar("T")


class Tally:
    """What this process asked of remote stores, since it started.

    calls: by operation and outcome ("done", "absent", "refused", "given up"). retries: by
    operation and what was waited for (an HTTP status, a code of the store, or a class of error).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Counter[tuple[str, str]] = Counter()
        self._retries: Counter[tuple[str, str]] = Counter()

    def called(self, operation: str, outcome: str) -> None:
        with self._lock:
            self._calls[operation, outcome] += 1

    def retried(self, operation: str, reason: str) -> None:
        with self._lock:
            self._retries[operation, reason] += 1

    @property
    def calls(self) -> Counter[tuple[str, str]]:
        with self._lock:
            return self._calls.copy()

    @property
    def retries(self) -> Counter[tuple[str, str]]:
        with self._lock:
            return self._retries.copy()


TALLY = Tally()
_answered: set[str] = set()  # stores, as scheme://bucket, that have answered this process


def patience() -> float:
    """The seconds that a store may fail before the run ends."""
    value = os.environ.get(VARIABLE)
    try:
        seconds = SECONDS if value is None else float(value)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise SluiceError(f"{VARIABLE} is {value!r}", "give seconds, such as 180, or 0 for one try")
    return seconds


def ask(
    url: str,
    operation: str,
    call: Callable[[Any, str], T],
    *,
    verb: str = "read",
    passes: tuple[type[Exception], ...] = ABSENT,
    failed: Callable[[Exception], object] | None = None,
) -> T:
    """`call(file system, path)` of a URL; on a disk just that.

    passes: what the caller is told as it is; all else a remote store fails at is a SluiceError
    "cannot `verb` url". failed: called with each failure that is tried again.
    """
    fs, path = resolve(url)
    if isinstance(fs, LocalFileSystem):
        return call(fs, path)
    store = "/".join(url.split("/")[:3])
    start, tries = time.monotonic(), 1
    while True:
        try:
            found = call(fs, path)
        except Exception as error:
            if answer(error)[0] is not None or isinstance(error, passes):
                _answered.add(store)
            _pass_on(error, url, operation, verb, passes)
            wait = JITTER.uniform(0, min(LONGEST, FIRST * 2 ** (tries - 1)))
            spent = time.monotonic() - start
            left = patience() if store in _answered else min(patience(), STRANGER)
            if tries == TRIES or spent + wait > left:
                TALLY.called(operation, "given up")
                raise told(error, url, verb, tries, spent) from error
            TALLY.retried(operation, kind(error))
            if failed is not None:
                failed(error)
            time.sleep(wait)
            tries += 1
        else:
            _answered.add(store)
            TALLY.called(operation, "done")
            return found


def _pass_on(
    error: Exception, url: str, operation: str, verb: str, passes: tuple[type[Exception], ...]
) -> None:
    """Raise what no further try will mend."""
    if isinstance(error, (SluiceError, *passes)):
        TALLY.called(operation, "absent" if isinstance(error, passes) else "refused")
        raise error
    if not is_transient(error):
        TALLY.called(operation, "refused")
        raise told(error, url, verb) from error


def told(
    error: Exception, url: str, verb: str = "read", tries: int = 1, seconds: float = 0.0
) -> SluiceError:
    """A remote store's failure in our words: URL, what the library said, tries and time."""
    again = f" ({tries} tries in {seconds:.0f} s)" if tries > 1 else ""
    return SluiceError(f"cannot {verb} {url}: {why(error)}{again}", REMOTE)
