"""What was seen while fetching: by outcome, host and time. Clocks differ, so it is no data."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from infra import filesystem
from infra.digests import canonical_json

OK = "ok"
STATISTICS = "statistics"  # folder of a version
HOSTS = 10_000  # of one shard, told apart; the rest are summed under OTHERS
OTHERS = "(others)"


@dataclass
class Host:
    """What one host did. seconds: of waiting for its answers, summed over requests."""

    records: int = 0
    bytes: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter[str])

    def to_json(self) -> dict[str, Any]:
        return {
            "records": self.records,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "outcomes": dict(sorted(self.outcomes.items())),
        }


@dataclass
class Observed:
    """The observations of one shard."""

    started: float = field(default_factory=time.time)
    requests: int = 0
    retries: int = 0
    redirects: int = 0
    hosts: dict[str, Host] = field(default_factory=dict[str, Host])

    def note(self, host: str, outcome: str | None, size: int, seconds: float) -> None:
        """One record came to its end."""
        entry = self.hosts.get(host)
        if entry is None:
            name = host if len(self.hosts) < HOSTS else OTHERS
            entry = self.hosts.setdefault(name, Host())
        entry.records += 1
        entry.bytes += size
        entry.seconds += seconds
        entry.outcomes[outcome or OK] += 1

    def to_json(self) -> dict[str, Any]:
        outcomes: Counter[str] = Counter()
        for host in self.hosts.values():
            outcomes.update(host.outcomes)
        return {
            "started": round(self.started, 3),
            "seconds": round(time.time() - self.started, 3),
            "requests": self.requests,
            "retries": self.retries,
            "redirects": self.redirects,
            "bytes": sum(host.bytes for host in self.hosts.values()),
            "outcomes": dict(sorted(outcomes.items())),
            "hosts": {name: host.to_json() for name, host in sorted(self.hosts.items())},
        }


def write_observed(url: str, name: str, observed: Observed) -> None:
    """Leave what was seen of a shard beside the version at `url`; it is no part of it."""
    filesystem.write_bytes(url, f"{STATISTICS}/{name}.json", canonical_json(observed.to_json()))
