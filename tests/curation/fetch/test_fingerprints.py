import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.fetch.fingerprints import Digests, NearHashes

NEARBY = st.integers(0, 3).map(lambda value: value.to_bytes(8, "big"))
WIDE = st.tuples(NEARBY, NEARBY | st.binary(min_size=8, max_size=8)).map(b"".join)


@given(st.lists(NEARBY | st.binary(min_size=8, max_size=8)), st.lists(NEARBY))
def test_a_set_of_8_bytes_has_its_members_and_no_other(
    members: list[bytes], others: list[bytes]
) -> None:
    table = Digests(b"".join(members), 8)
    assert len(table) == len(set(members))
    for member in [*members, *others]:
        assert (member in table) == (member in set(members))
    assert table.words().tolist() == sorted(
        int.from_bytes(member, "big") for member in set(members)
    )


@given(st.lists(WIDE), st.lists(WIDE))
def test_a_set_of_16_bytes_has_its_members_and_no_other(
    members: list[bytes], others: list[bytes]
) -> None:
    table = Digests(b"".join(members), 16)
    assert len(table) == len(set(members))
    for member in [*members, *others]:
        assert (member in table) == (member in set(members))


def test_nothing_is_found_across_two_members() -> None:
    members = [bytes(8) + b"ABCDEFGH", bytes(8) + b"abcdefgh"]
    data = b"".join(members)
    for start in range(1, 16):
        across = data[start : start + 16]
        assert across not in Digests(data, 16)
        assert across in Digests(data + across, 16)


@given(st.lists(WIDE), st.randoms())
def test_equal_sets_have_equal_hashes(members: list[bytes], random: object) -> None:
    mixed = members * 2
    random.shuffle(mixed)  # type: ignore[attr-defined]
    first, second = Digests(b"".join(members), 16), Digests(b"".join(mixed), 16)
    assert first.sha256() == second.sha256()
    other = Digests(b"".join([*members, b"\xff" * 16]), 16)
    assert (first.sha256() == other.sha256()) == (b"\xff" * 16 in members)


@pytest.mark.parametrize(("width", "most"), [(16, 20), (32, 36)])
def test_a_million_members(width: int, most: float) -> None:
    data = np.random.default_rng(0).bytes(width * 1_000_000)
    table = Digests(data, width)
    assert len(table) == 1_000_000
    assert table.nbytes / 1_000_000 < most
    for first in range(0, len(data), width * 10_007):
        member = data[first : first + width]
        assert member in table
        assert member[:-1] + bytes([member[-1] ^ 1]) not in table


def turned_over(value: int, bits: list[int]) -> int:
    for bit in bits:
        value ^= 1 << bit
    return value


HASHES = st.integers(0, 2**64 - 1)


@given(
    st.lists(HASHES, min_size=1, max_size=30),
    st.integers(0, 10),
    st.lists(st.integers(0, 63), unique=True, max_size=14),
    HASHES,
)
def test_closeness_is_what_comparing_all_says(
    members: list[int], distance: int, bits: list[int], other: int
) -> None:
    table = NearHashes(np.array(members, np.uint64), distance)
    for value in (members[0], turned_over(members[0], bits), other):
        expected = min((member ^ value).bit_count() for member in members) <= distance
        assert table.close_to(value) == expected


@pytest.mark.parametrize("distance", range(11))
def test_closeness_among_many(distance: int) -> None:
    rng = np.random.default_rng(distance)
    members = rng.integers(0, 2**64, 100_000, dtype=np.uint64)
    table = NearHashes(members, distance)
    for away in (0, distance // 2, distance, distance + 1, distance + 3):
        for member in rng.choice(members, 20):
            value = turned_over(int(member), rng.permutation(64)[:away].tolist())
            expected = bool((np.bitwise_count(members ^ np.uint64(value)) <= distance).any())
            assert table.close_to(value) == expected


def test_four_bits_take_fewer_than_forty_bytes_a_member() -> None:
    members = np.random.default_rng(0).integers(0, 2**64, 1_000_000, dtype=np.uint64)
    assert NearHashes(members, 4).nbytes / 1_000_000 < 40


def test_no_members() -> None:
    assert not NearHashes(np.array([], np.uint64), 4).close_to(0)
    assert b"\0" * 16 not in Digests(b"", 16)
