"""Each method's formula on a case small enough to be worked by hand; the working stands beside."""

import io

import numpy as np
import pytest

from curation.selection.cells import Space
from curation.selection.concepts import Matcher, Spilled, solve
from curation.selection.density import complexity, share, softmax
from curation.selection.hierarchy import fill, spread
from curation.selection.quantization import bins, proportional
from curation.selection.quotas import bounds
from tests.curation.conftest import Maker


def test_concepts_are_thinned_to_t() -> None:
    entries = ["dog", "cat", "red owl"]
    texts = ["dog", "a dog, a cat", "dog!", "dogs", "dog cat red owl", None, "red owl"]
    matched = Spilled(io.BytesIO(), 3)
    matched.add(Matcher(entries).match(texts))
    assert matched.counts.tolist() == [4, 2, 2] and matched.unmatched == 2
    # t = 1: p = min(1, t / n) = 1/4, 1/2, 1/2
    probability, rarest = matched.judge(matched.counts, 1.0)
    both, all_three = 1 - 3 / 4 * 1 / 2, 1 - 3 / 4 * 1 / 2 * 1 / 2
    expected = [1 / 4, both, 1 / 4, 0, all_three, 0, 1 / 2]
    assert probability == pytest.approx(expected)
    assert rarest.tolist() == [0, 1, 0, -1, 1, -1, 2]
    assert matched.expected(matched.counts, 1.0) == pytest.approx(sum(expected))
    # t = 2: cat and owl are kept whole, dog with 1/2: 1/2 + 1 + 1/2 + 1 + 1 = 4
    assert matched.expected(matched.counts, 2.0) == pytest.approx(4)
    assert solve(matched, matched.counts, 4) == pytest.approx(2, abs=0.03)


def test_a_target_is_cut_from_the_top() -> None:
    # min(3, s) sums to 3 + 3 + 3 + 2 = 11, min(4, s) to 13: one of the two larger gets one more
    sizes, drawn, none = np.array([10, 3, 5, 2]), np.array([0.9, 0.1, 0.2, 0.3]), np.zeros(4, int)
    assert fill(sizes, 12, drawn, none).tolist() == [3, 3, 4, 2]
    # with 2 taken of the first, 5 makes it 3 + 3 + 5 + 2 = 13, 4 makes it 2 + 3 + 4 + 2 = 11
    assert fill(sizes, 11, drawn, np.array([2, 0, 0, 0])).tolist() == [2, 3, 4, 2]
    # two parents of (10, 1) and (4, 4): 6 of each, 5 + 1 and 3 + 3
    parents = [np.array([0, 0, 1, 1])]
    taken = [np.zeros(4, int), np.zeros(2, int)]
    fine, top = spread(np.array([10, 1, 4, 4]), parents, 12, (0,), taken)
    assert (fine.tolist(), top.tolist()) == ([5, 1, 3, 3], [6, 6])


def test_the_complexity_of_clusters() -> None:
    # Centroids at 0, 90 and 180 degrees. Rows at +-60 degrees of the first: cosine 1/2, squared
    # distance 1; on the second: 0; at 90 degrees of the third: cosine 0, squared distance 2.
    centroids = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    space = Space(np.array([0, 0, 1, -1, 2], np.int32), 3, np.array([1.0, 1.0, 0.0, np.inf, 2.0]))
    # to one neighbour: 1, 1, 1; to two: (1 + 2) / 2, 1, (1 + 2) / 2
    assert complexity(space, centroids, 1) == pytest.approx([1 / 2, 0, 1])
    assert complexity(space, centroids, 20) == pytest.approx([3 / 4, 0, 3 / 2])
    # a mean of unit vectors is shorter than they are: (3/5, +-4/5) around (3/5, 0), squared 16/25
    short = np.array([[0.6, 0], [0, 1]], np.float32)
    space = Space(np.array([0, 0, 1], np.int32), 2, np.array([0.64, 0.64, 0.0]))
    assert complexity(space, short, 20) == pytest.approx([1 - 3 / 5, 0])


def test_the_quotas_of_density() -> None:
    # softmax((ln 1, ln 2, ln 7)) = 0.1, 0.2, 0.7 of 10 rows: 1, 2, 7; the last has but 4.
    wanted = softmax(np.log([1.0, 2.0, 7.0]), np.ones(3, bool))
    assert wanted == pytest.approx([0.1, 0.2, 0.7])
    assert share(np.array([9, 9, 9]), wanted, 10).tolist() == [1, 2, 7]
    # The 3 that are left raise both others alike, 1.5 each, to 2.5 and 3.5: one of them by 2
    assert share(np.array([9, 9, 4]), wanted, 10).tolist() in ([3, 3, 4], [2, 4, 4])
    # at least one of each: 0.1 of 4 rows would be none
    assert share(np.array([9, 9, 9]), wanted, 4).tolist() == [1, 1, 2]


def test_the_bins_of_quantization() -> None:
    # Similarities of rows at 0, 0, 60 and 90 degrees, summed over all four: 2.5, 2.5, 2.866, 1.866.
    # First bin: the third row; then 2.5 - 2 * 0.5 = 1.5, 1.5, 1.866 - 2 * 0.866 = 0.134: the first.
    # What remains, the second and the fourth row, is the last bin.
    angles = np.radians([0, 0, 60, 90])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert bins(vectors, 2, 1.0).tolist() == [0, 1, 0, 1]
    # weight 0: of equal gains the first row; then what is least like it: the fourth
    assert bins(vectors, 2, 0.0).tolist() == [0, 1, 1, 0]
    # a third of bins of 6, 3 and 1 is 2, 1 and 0; the remainder goes by the draws
    drawn = np.array([0.5, 0.4, 0.1])
    assert proportional(np.array([6, 3, 1]), 3, drawn).tolist() == [1, 1, 1]
    assert proportional(np.array([6, 3, 1]), 5, drawn).tolist() == [3, 1, 1]


def test_quotas_count_what_was_taken() -> None:
    # 4 at most, 3 of the last taken before; a quarter of 20 is 5
    sizes, taken = np.array([9, 2, 9]), np.array([0, 0, 3])
    assert bounds(sizes, 4, None, taken).tolist() == [4, 2, 1]
    assert bounds(sizes, None, 0.25, taken).tolist() == [5, 2, 5]


def test_retrieval_around_a_reference(maker: Maker, selecting, tmp_path) -> None:
    """Rows at 0, 20, 40, ... degrees, references at 0 and 130."""
    angles = np.radians(np.arange(0, 180, 20))
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    made = maker.dataset("pool", [{}] * 9)
    maker.score(made, "clip", {"fine": [True] * 9}, {"image": vectors})
    there = np.radians([0, 130])
    np.save(tmp_path / "r.npy", np.stack([np.cos(there), np.sin(there)], axis=1))
    plan = {"kind": "retrieval", "reference": str(tmp_path / "r.npy")}

    def degrees(**more: object) -> list[int]:
        table = selecting.table(selecting.select(made, plan | more).url, made)
        return (20 * np.flatnonzero(table["selected"].to_pylist())).tolist()

    assert degrees(neighbours=2) == [0, 20, 120, 140]
    assert degrees(threshold=0.9) == [0, 20, 120, 140]  # cos 20 = 0.94, cos 30 = 0.87
    assert degrees(threshold=0.8) == [0, 20, 100, 120, 140, 160]
    assert degrees(cells=9) in ([0, 120], [0, 140])  # every row a cell; 130 is between the two
