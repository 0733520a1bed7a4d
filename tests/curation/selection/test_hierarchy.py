"""Balanced sampling from the top: exact sums, the cut, the remainder; whole levels; the stage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.selection.hierarchy import fill, fit, spread
from tests.curation.conftest import Maker

KEY = (0, "selection", "clusters")


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(0, 300), st.data())
def test_a_target_is_spread_evenly_as_far_as_the_sizes_reach(sizes, target, data) -> None:
    sizes = np.array(sizes)
    drawn = np.array(data.draw(st.permutations(range(len(sizes)))), float)
    quotas = fill(sizes, target, drawn, np.zeros_like(sizes))
    assert quotas.sum() == min(target, sizes.sum())
    assert (quotas <= sizes).all() and (quotas >= 0).all()
    below = quotas < sizes
    if below.any():  # the cut: who could have given more gave as much as anyone, but for one
        cut = quotas[below].min()
        assert (quotas <= cut + 1).all() and quotas[below].max() <= cut + 1
        assert (quotas[sizes <= cut] == sizes[sizes <= cut]).all()
        larger = sizes > cut
        more = np.flatnonzero(larger & (quotas == cut + 1))
        lowest = np.flatnonzero(larger)[np.argsort(drawn[larger])][: len(more)]
        assert sorted(lowest.tolist()) == more.tolist()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1), st.integers(0, 60))
def test_what_was_taken_before_counts(children, target) -> None:
    sizes, taken = np.array(children).T
    quotas = fill(sizes, target, np.zeros(len(sizes)), taken)
    assert quotas.sum() == min(target, sizes.sum())
    assert (quotas <= sizes).all() and (quotas >= 0).all()
    together = quotas + taken  # nobody gave while one that could give more has less than it by 2
    could = quotas < sizes
    if could.any() and (quotas > 0).any():
        assert together[quotas > 0].max() <= together[could].min() + 1


@given(st.data())
def test_every_level_sums_to_the_target(data) -> None:
    sizes = np.array(data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=12)))
    middle = np.array([data.draw(st.integers(0, 3)) for _ in sizes])
    parents = [middle, np.array([data.draw(st.integers(0, 1)) for _ in range(middle.max() + 1)])]
    target = data.draw(st.integers(0, 200))
    counts = (len(sizes), middle.max() + 1, parents[1].max() + 1)
    taken = [np.zeros(count, int) for count in counts]
    fine, between, top = spread(sizes, parents, target, KEY, taken)
    assert fine.sum() == between.sum() == top.sum() == min(target, sizes.sum())
    assert (fine <= sizes).all()
    assert np.bincount(parents[0], fine, len(between)).tolist() == between.tolist()
    assert np.bincount(parents[1], between, len(top)).tolist() == top.tolist()


def test_levels_are_clusters_of_clusters() -> None:
    rng = np.random.default_rng(0)
    far = rng.normal(size=(4, 8)) * 20
    near = far[:, None] + rng.normal(size=(4, 5, 8))
    points = (near[:, :, None] + rng.normal(size=(4, 5, 30, 8)) * 0.02).reshape(-1, 8)
    found = fit(points.astype(np.float16), (20, 4), KEY, 3, 50)
    assert [len(level) for level in found.centroids] == [20, 4]
    assert np.bincount(found.parents[0]).tolist() == [5] * 4


def test_a_large_cluster_gives_no_more_than_a_small_one(maker: Maker, selecting) -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(4), [70, 12, 9, 9])
    vectors = np.eye(8)[labels] + rng.normal(size=(100, 8)) * 0.01
    vectors[99] = 0
    maker = Maker(maker.store, 40)
    made = maker.dataset("pool", [{}] * 100)
    maker.score(made, "clip", {"fine": [True] * 100}, {"image": vectors})
    plan = {"kind": "clusters", "levels": [4], "target": 32}
    artifact = selecting.select(made, plan)
    rows = selecting.table(artifact.url, made).to_pylist()
    chosen = np.bincount(labels[[row["selected"] for row in rows]], minlength=4)
    assert chosen.tolist() == [8] * 4 and artifact.totals["kept"] == 32
    assert artifact.totals["dropped"]["no_vector"] == 1
    (part,) = artifact.parts
    (figures,) = part.extra["selectors"]
    assert figures["expected"] == pytest.approx(32) and figures["realised"] == 32
    assert figures["effective_cells"][1] > figures["effective_cells"][0]
    for leaves, missing, kept in (("closest", "keep", 33), ("random", "keep", 33)):
        other = selecting.select(made, plan | {"leaves": leaves, "missing": missing})
        assert other.totals["kept"] == kept
