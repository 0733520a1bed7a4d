"""Dataset Quantization: the greedy bins against the definition; the same share of every bin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.selection.quantization import bins, proportional, split


def plain(vectors: np.ndarray, count: int, weight: float) -> list[int]:
    """The greedy choice with every gain computed anew."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit.T
    rows = len(vectors)
    found, free = [count - 1] * rows, set(range(rows))
    for number in range(count):
        pool, bin_ = sorted(free), []
        for _ in range(rows * (number + 1) // count - rows * number // count):
            gains = {
                x: weight * similarity[pool, x].sum() - 2 * similarity[bin_, x].sum() for x in free
            }
            best = max(sorted(free), key=lambda x: round(gains[x], 9))
            found[best] = number
            free.remove(best)
            bin_.append(best)
    return found


@given(st.integers(0, 2**31), st.integers(1, 25), st.integers(1, 6), st.sampled_from([0, 1, 0.3]))
def test_the_bins_are_those_of_the_greedy_choice(seed, rows, count, weight) -> None:
    vectors = np.random.default_rng(seed).normal(size=(rows, 6))
    found = bins(vectors, count, weight)
    assert found.tolist() == plain(vectors, count, weight)
    sizes = np.bincount(found, minlength=count)
    assert sizes.max() - sizes.min() <= 1


def test_a_bin_holds_what_is_unlike_each_other() -> None:
    labels = np.repeat(np.arange(4), 25)
    vectors = np.eye(4)[labels] + np.random.default_rng(0).normal(size=(100, 4)) * 0.01
    found = bins(vectors, 5, 1.0)
    for number in range(5):
        assert np.bincount(labels[found == number], minlength=4).tolist() == [5] * 4


def test_equal_and_empty_vectors() -> None:
    assert np.bincount(bins(np.ones((10, 3)), 5, 1.0)).tolist() == [2] * 5
    assert len(bins(np.empty((0, 3)), 5, 1.0)) == 0


@given(st.lists(st.integers(0, 30), min_size=1), st.integers(0, 400))
def test_every_bin_gives_the_same_share(sizes, target) -> None:
    sizes = np.array(sizes)
    quotas = proportional(sizes, target, np.random.default_rng(0).random(len(sizes)))
    assert quotas.sum() == min(target, sizes.sum())
    assert (quotas <= sizes).all()
    ideal = sizes * min(target / max(sizes.sum(), 1), 1)
    assert (np.abs(quotas - ideal) < 1 + 1e-9).all()


def test_large_cells_are_cut_evenly() -> None:
    labels = np.array([0] * 25 + [1] * 3 + [-1] * 2)
    groups = split(labels, np.arange(30, dtype=np.uint64), 10)
    assert sorted(np.bincount(groups[:25]).tolist()) == [8, 8, 9]
    assert set(groups[25:28]) == {3} and set(groups[28:]) == {-1}


@pytest.mark.parametrize("most", [1, 7])
def test_no_cells(most: int) -> None:
    assert len(split(np.empty(0, int), np.empty(0, np.uint64), most)) == 0
