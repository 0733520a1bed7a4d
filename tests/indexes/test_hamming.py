import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes import hamming
from indexes.hamming import closest, hamming_pairs
from infra.errors import SluiceError


def by_definition(hashes: np.ndarray, radius: int) -> list[tuple[int, int, int]]:
    table = hashes if hashes.ndim > 1 else hashes[:, None]
    far = np.bitwise_count(table[:, None] ^ table[None]).max(axis=2, initial=0)
    a, b = np.nonzero(np.triu(far <= radius, 1))
    return list(zip(a.tolist(), b.tolist(), far[a, b].tolist(), strict=True))


def found(hashes: np.ndarray, radius: int) -> list[tuple[int, int, int]]:
    a, b, distance = hamming_pairs(hashes, radius)
    assert (a.dtype, b.dtype, distance.dtype) == (np.int64, np.int64, np.uint8)
    return list(zip(a.tolist(), b.tolist(), distance.tolist(), strict=True))


words = st.integers(0, 2**64 - 1)
crowded = st.builds(  # few centres, some bits away: many pairs on either side of the radius
    lambda centre, bits: centre ^ sum(1 << bit for bit in bits),
    st.sampled_from([0, 2**64 - 1, 0x0123456789ABCDEF]),
    st.sets(st.integers(0, 63), max_size=12),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(words | crowded, crowded), max_size=40),
    st.integers(0, 16),
    st.sampled_from([1, 2]),
)
def test_pairs_are_those_of_the_definition(
    rows: list[tuple[int, int]], radius: int, columns: int
) -> None:
    hashes = np.array(rows, np.uint64).reshape(-1, 2)[:, :columns]
    assert found(hashes, radius) == by_definition(hashes, radius)


@pytest.mark.parametrize("bands", [3, 4, 5, 7, 11, 64])
@pytest.mark.parametrize("radius", [0, 3, 6, 10])
def test_every_cut_finds_the_same(bands: int, radius: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(bands)
    hashes = rng.integers(0, 2**64, 40, np.uint64).repeat(8)
    for _ in range(radius):  # copies that differ in up to `radius` bits, wherever
        hashes ^= np.uint64(1) << rng.integers(0, 64, len(hashes), np.uint64)
    monkeypatch.setattr(hamming, "_bands", lambda count, radius, known: hamming._cut(bands, radius))
    assert found(hashes, radius) == by_definition(hashes, radius)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(crowded, crowded), max_size=30), st.integers(0, 12), st.integers(0, 30))
def test_a_search_of_new_rows_is_the_difference_of_two_searches(
    rows: list[tuple[int, int]], radius: int, known: int
) -> None:
    hashes = np.array(rows, np.uint64).reshape(-1, 2)
    a, b, distance = hamming_pairs(hashes, radius, known=known)
    new = list(zip(a.tolist(), b.tolist(), distance.tolist(), strict=True))
    assert new == [pair for pair in by_definition(hashes, radius) if pair[1] >= known]


@pytest.mark.parametrize("value", [0, 2**64 - 1])
def test_too_many_pairs_are_an_error_and_not_a_flood(value: int) -> None:
    same = np.full(100_000, value, np.uint64)
    with pytest.raises(SluiceError, match="more than 1000 pairs"):
        hamming_pairs(same, 4, max_pairs=1000)


@pytest.mark.parametrize("radius", [-1, 64])
def test_a_radius_beyond_the_bits_is_refused(radius: int) -> None:
    with pytest.raises(SluiceError, match="radius"):
        hamming_pairs(np.zeros(2, np.uint64), radius)


@settings(max_examples=40, deadline=None)
@given(st.lists(crowded, max_size=20), st.lists(crowded, min_size=1, max_size=20))
def test_the_closest_is_the_first_of_the_smallest_distance(
    queries: list[int], base: list[int]
) -> None:
    left, right = np.array(queries, np.uint64), np.array(base, np.uint64)
    index, distance = closest(left, right)
    every = np.bitwise_count(left[:, None] ^ right[None])
    assert index.tolist() == every.argmin(axis=1).tolist()
    assert distance.tolist() == every.min(axis=1).tolist()
