import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.band_kernels import half_products
from indexes.neighbours import above, nearest, pair_recall, pair_similarity, range_pairs
from infra.errors import SluiceError


def clustered(count: int, dimension: int = 32, seed: int = 0) -> np.ndarray:
    """Unit float16 vectors; the second half are near-copies of the first."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(count - count // 2, dimension))
    second = first[: count // 2] + 0.1 * rng.normal(size=(count // 2, dimension))
    vectors = np.concatenate([first, second])
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture
def by_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit codes are used even where comparing all pairs would be cheaper."""
    monkeypatch.setattr("indexes.neighbours.EXACT_COST", (1e6, 0.0))


def by_definition(vectors: np.ndarray, threshold: float) -> set[tuple[int, int]]:
    wide = vectors.astype(np.float64)
    a, b = np.nonzero(np.triu((wide @ wide.T).astype(np.float32) >= np.float32(threshold), 1))
    return set(zip(a.tolist(), b.tolist(), strict=True))


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(0, 60),
    threshold=st.sampled_from([0.05, 0.5, 0.9, 0.99]),
    seed=st.integers(0, 1000),
    zeros=st.booleans(),
)
def test_pairs_are_those_of_the_definition(
    count: int, threshold: float, seed: int, zeros: bool
) -> None:
    vectors = clustered(count, 4, seed)
    if zeros:
        vectors[::3] = 0
    a, b, similarity = range_pairs(vectors, threshold)
    assert set(zip(a.tolist(), b.tolist(), strict=True)) == by_definition(vectors, threshold)
    assert (a < b).all()
    assert (np.diff(a * (count + 1) + b) > 0).all()
    assert (similarity >= np.float32(threshold)).all()
    assert (a.dtype, b.dtype, similarity.dtype) == (np.int64, np.int64, np.float32)


def test_blocks_and_codes_give_the_same_pairs(
    by_codes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = clustered(1500)
    whole = range_pairs(vectors, 0.8)
    assert len(whole[0]) >= 700
    coded = range_pairs(vectors, 0.8, exact_limit=100, misses=1e-4)
    monkeypatch.setattr("indexes.neighbours.BLOCK", 97)
    monkeypatch.setattr("indexes.neighbours.COLUMNS", 211)
    monkeypatch.setattr("indexes.neighbours.RESCORED", 13)
    blocked = range_pairs(vectors, 0.8)
    for one, two, three in zip(whole, coded, blocked, strict=True):
        assert (one == two).all()
        assert (one == three).all()


def test_what_is_lost_stays_under_the_bound_and_is_measured(by_codes: None) -> None:
    vectors = clustered(3000)
    a, b, _ = range_pairs(vectors, 0.994, exact_limit=100, misses=0.5)
    true = by_definition(vectors, 0.994)
    found = set(zip(a.tolist(), b.tolist(), strict=True))
    assert found <= true
    recall = len(found) / len(true)
    assert 0.5 < recall < 1
    assert pair_recall(vectors, a, b, 0.994, sample=3000) == pytest.approx(recall)
    assert pair_recall(vectors, a[::2], b[::2], 0.994) < 0.6
    assert pair_recall(vectors[:0], a[:0], b[:0], 0.994) == 1.0


@pytest.mark.parametrize("exact_limit", [10_000, 10], ids=["exact", "codes"])
@pytest.mark.parametrize("known", [0, 1, 700, 1999, 2000])
def test_a_search_of_new_rows_is_the_difference_of_two_searches(
    by_codes: None, known: int, exact_limit: int
) -> None:
    vectors = clustered(2000)[np.random.default_rng(5).permutation(2000)]
    vectors[::50] = 0
    a, b, similarity = range_pairs(vectors, 0.8, exact_limit=exact_limit)
    new = b >= known
    found = range_pairs(vectors, 0.8, exact_limit=exact_limit, known=known)
    for one, two in zip(found, (a[new], b[new], similarity[new]), strict=True):
        assert one.tolist() == two.tolist()
    assert pair_recall(vectors, found[0], found[1], 0.8, known=known, sample=500) >= 0.999


def test_the_order_of_rows_does_not_change_a_similarity() -> None:
    vectors = clustered(400)
    order = np.random.default_rng(3).permutation(400)
    a, b, similarity = range_pairs(vectors, 0.7)
    c, d, shuffled = range_pairs(vectors[order], 0.7)
    first = {(x, y): s for x, y, s in zip(a, b, similarity, strict=True)}
    pairs = [tuple(sorted((order[x], order[y]))) for x, y in zip(c, d, strict=True)]
    assert first == dict(zip(pairs, shuffled, strict=True))


def test_a_pair_exactly_at_the_threshold_counts() -> None:
    vectors = clustered(300, 96)
    a = np.arange(150)
    for pair, exact in enumerate(pair_similarity(vectors, a, a + 150)):
        left, right, _ = range_pairs(vectors, float(exact))
        assert (pair, pair + 150) in set(zip(left.tolist(), right.tolist(), strict=True))


def test_too_many_pairs_and_bad_vectors_are_refused() -> None:
    same = np.ones((200, 4), np.float16) / 2
    with pytest.raises(SluiceError, match="more than 1000 pairs"):
        range_pairs(same, 0.9, max_pairs=1000)
    with pytest.raises(SluiceError, match="pair everything"):
        range_pairs(same, 0.0)
    with pytest.raises(SluiceError, match="more than 1000 pairs"):
        range_pairs(same, 0.9, max_pairs=1000, exact_limit=10)
    same[17, 2] = np.nan
    for limit in (10, 1000):
        with pytest.raises(SluiceError, match="in 1 rows, first in row 17"):
            range_pairs(same, 0.9, exact_limit=limit)
    same[17] = 3
    with pytest.raises(SluiceError, match="row 17 of the vectors has length 6"):
        range_pairs(same, 0.9, exact_limit=10)
    with pytest.raises(SluiceError, match="dimensions"):
        nearest(np.ones((3, 4), np.float32), np.ones((3, 5), np.float32), 1)


def test_halves_are_multiplied_exactly() -> None:
    """All float16 numbers: normal, subnormal, zero, of both signs."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)].reshape(-1, 64)
    ones = np.ones((1, 64), np.float16)
    for place in range(64):
        vectors = np.concatenate([ones * 0, halves])
        vectors[0, place] = 1
        b = np.arange(1, len(vectors))
        products = half_products(vectors.view(np.uint16), np.zeros_like(b), b)
        assert products.tolist() == halves[:, place].astype(np.float32).tolist()


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 12), m=st.integers(1, 40), k=st.integers(1, 50), seed=st.integers(0, 1000))
def test_nearest_is_a_sort_by_similarity(n: int, m: int, k: int, seed: int) -> None:
    base = clustered(m, 6, seed)
    base[m // 2 :] = base[: m - m // 2]  # ties
    queries = clustered(n, 6, seed + 1)
    similarity, index = nearest(queries, base, k)
    exact = (queries.astype(np.float64) @ base.T.astype(np.float64)).astype(np.float32)
    columns = np.broadcast_to(np.arange(m), exact.shape)
    order = np.lexsort((columns, -exact), axis=1)[:, :k]
    assert (index == order).all()
    assert similarity == pytest.approx(np.take_along_axis(exact, order, 1), abs=1e-6)


def test_nearest_in_blocks_is_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = clustered(700)
    whole = nearest(vectors[:100], vectors, 9)
    monkeypatch.setattr("indexes.neighbours.BLOCK", 64)
    monkeypatch.setattr("indexes.neighbours.COLUMNS", 33)
    blocked = nearest(vectors[:100], vectors, 9)
    assert (whole[0] == blocked[0]).all()
    assert (whole[1] == blocked[1]).all()


def test_above_names_the_best_match_or_none() -> None:
    base = np.eye(4, dtype=np.float16)
    queries = np.array([[0.9, 0.1, 0, 0], [0.1, 0, 0.2, 0.0], [0, 0, 0, 0]], np.float16)
    index, similarity = above(queries, base, 0.5)
    assert index.tolist() == [0, -1, -1]
    assert similarity == pytest.approx([0.9, 0.2, 0], abs=1e-3)
    index, similarity = above(queries, base[:0], 0.5)
    assert index.tolist() == [-1, -1, -1]
    assert np.isneginf(similarity).all()


def test_similarity_of_two_tables() -> None:
    left, right = clustered(5), clustered(5, seed=1)
    rows = np.arange(5)
    expected = (left.astype(np.float64) * right.astype(np.float64)).sum(1)
    assert pair_similarity(left, rows, rows, right) == pytest.approx(expected, abs=1e-6)
