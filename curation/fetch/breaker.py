"""The circuit breaker: tells a broken network here from broken links out there.

Links rot one host at a time and in many ways. When nearly all of many hosts fail in the same
way, it is the resolver, the line or a library of ours; then a run that goes on writes failures
that are none.
"""

from collections import Counter, OrderedDict
from collections.abc import Hashable

from curation import outcomes

WINDOW = 64  # keys (hosts, or images) that were last heard of
SHARE = 0.9  # of the window, failing in one way
SYSTEMIC = {
    outcomes.DNS: "names cannot be resolved: see that the DNS resolver answers, or name others in "
    "data.fetch.resolvers",
    outcomes.CONNECT: "no server can be reached: see that this machine is on the network",
    outcomes.TIMEOUT: "no server answers in time: see that the network is not overloaded, or lower "
    "data.fetch.connections",
    outcomes.TLS: "no certificate is accepted: see the clock of this machine and "
    "data.fetch.ca_file",
    outcomes.DECODE_FAILED: "no image can be decoded: see that the image libraries are whole",
}


class Breaker:
    """Watches the last outcome of each of the last `window` keys."""

    def __init__(self, window: int = WINDOW, share: float = SHARE) -> None:
        self._window, self._limit = window, share * window
        self._last: OrderedDict[Hashable, str | None] = OrderedDict()
        self._counts: Counter[str | None] = Counter()

    def note(self, key: Hashable, outcome: str | None) -> str | None:
        """Take in one outcome; the class of failure that has become systemic, or None."""
        if key in self._last:
            self._counts[self._last.pop(key)] -= 1
        elif len(self._last) == self._window:
            self._counts[self._last.popitem(last=False)[1]] -= 1
        self._last[key] = outcome
        self._counts[outcome] += 1
        if outcome in SYSTEMIC and self._counts[outcome] >= self._limit:
            return outcome
        return None

    def describe(self, outcome: str) -> tuple[str, str]:
        """What to tell of a systemic failure: what is wrong, and the way out."""
        count = self._counts[outcome]
        return f"{count} of the last {len(self._last)} failed with {outcome}", SYSTEMIC[outcome]

    def forget(self) -> None:
        self._last.clear()
        self._counts.clear()
