"""Records come out in the order in which they began, each once, wherever they waited."""

from hypothesis import given
from hypothesis import strategies as st

from curation.fetch.order import InOrder
from curation.sources.base import Record


def record(number: int, size: int) -> Record:
    return Record(str(number), image=bytes([number % 256]) * size if size else None)


@given(st.permutations(range(24)), st.integers(0, 400))
def test_any_order_in_gives_one_order_out(order: list[int], held: int) -> None:
    ordered = InOrder(held)
    out: list[Record] = []
    for number in order:
        ordered.add(number, record(number, number * 7 % 40))
        out += ordered.take()
        waiting = [len(entry.image or b"") for entry, _, _ in ordered._waiting.values()]
        assert sum(waiting) == ordered._held <= held
    ordered.close()
    assert out == [record(number, number * 7 % 40) for number in range(24)]


def test_what_waits_beyond_the_limit_waits_on_disk() -> None:
    ordered = InOrder(held=100)
    for number in range(1, 50):
        ordered.add(number, record(number, 50))
    held = sum(len(entry.image or b"") for entry, _, _ in ordered._waiting.values())
    assert held <= 100
    assert not ordered.ready
    ordered.add(0, record(0, 50))
    assert [entry.source for entry in ordered.take()] == [str(number) for number in range(50)]
    ordered.close()
