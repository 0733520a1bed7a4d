"""The breaker trips when many hosts fail alike, and for nothing else."""

import random

from curation import outcomes
from curation.fetch.breaker import SYSTEMIC, WINDOW, Breaker


def test_many_hosts_that_fail_alike_are_systemic() -> None:
    for outcome in SYSTEMIC:
        breaker = Breaker()
        found = [breaker.note(f"host{number}", outcome) for number in range(WINDOW)]
        assert found[-1] == outcome
        assert not any(found[: WINDOW // 2])
        what, way_out = breaker.describe(outcome)
        assert outcome in what and way_out
        breaker.forget()
        assert breaker.note("another", outcome) is None


def test_one_dead_host_is_not() -> None:
    breaker = Breaker()
    assert not any(breaker.note("dead.example", outcomes.CONNECT) for _ in range(10_000))


def test_links_that_rot_in_many_ways_are_not() -> None:
    rng = random.Random(0)
    ways = [None, outcomes.DNS, outcomes.TIMEOUT, outcomes.NOT_FOUND, outcomes.CONNECT]
    breaker = Breaker()
    for number in range(20_000):
        assert breaker.note(f"host{rng.randrange(3000)}", rng.choice(ways)) is None, number


def test_missing_pages_are_never_systemic() -> None:
    breaker = Breaker()
    assert not any(breaker.note(str(number), outcomes.NOT_FOUND) for number in range(1000))


def test_a_resolver_that_breaks_on_the_way_is_noticed_soon() -> None:
    breaker = Breaker()
    assert not any(breaker.note(f"good{number}", None) for number in range(1000))
    found = [breaker.note(f"bad{number}", outcomes.DNS) for number in range(WINDOW)]
    assert outcomes.DNS in found
