"""Draws: uniform, keyed, the same for a uid wherever it stands; quotas over them."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.draws import draws, uid_words, uniforms
from curation.selection.choice import lowest, rates
from curation.selection.quotas import bounds, encode
from infra.errors import SluiceError

GOLDEN = [9711783781331429765, 6049970847979168441, 13494821875042447975]


def uids(count: int) -> np.ndarray:
    return np.stack([np.zeros(count, np.uint64), np.arange(count, dtype=np.uint64)], axis=1)


def test_draws_are_uniform_and_independent_of_key_and_neighbours() -> None:
    found = uniforms(uids(100_000), 0, "a")
    histogram = np.histogram(found, 100, (0, 1))[0]
    assert ((histogram - 1000) ** 2 / 1000).sum() < 150  # chi-squared, 99 degrees: p > 0.0005
    others = uniforms(uids(100_000), 0, "b"), uniforms(uids(100_000), 1, "a")
    for other in (*others, np.roll(found, 1)):
        assert abs(np.corrcoef(found, other)[0, 1]) < 0.015
    assert (found[5:9] == uniforms(uids(9)[5:], 0, "a")).all()


def test_draws_never_change() -> None:
    assert draws(uids(3), 7, "golden").tolist() == GOLDEN


def test_uids_are_words() -> None:
    text = ["0" * 31 + "1", "f" * 32]
    assert uid_words(pa.chunked_array([text])).tolist() == [[0, 1], [2**64 - 1] * 2]
    assert uid_words(pa.chunked_array([], pa.string())).shape == (0, 2)
    for wrong in ("a", "", "g" * 32):
        with pytest.raises(SluiceError, match=f"'{wrong}' is not 32 hex"):
            uid_words(pa.chunked_array([["0" * 32, wrong]]))


@given(st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 50)), max_size=60), st.data())
def test_the_lowest_of_each_cell_are_chosen(rows, data) -> None:
    cells = np.array([cell for cell, _ in rows], np.int64)
    order = np.array([rank for _, rank in rows], np.uint64)
    quotas = np.array(data.draw(st.lists(st.integers(0, 9), min_size=5, max_size=5)))
    chosen = lowest(cells, quotas, order)
    assert not chosen[cells < 0].any()
    for cell in range(5):
        members = np.flatnonzero(cells == cell)
        best = sorted(members.tolist(), key=lambda i: (order[i], i))[: quotas[cell]]
        assert np.flatnonzero(chosen & (cells == cell)).tolist() == sorted(best)


@given(st.lists(st.integers(0, 50), min_size=1), st.integers(1, 20), st.floats(0.01, 1))
def test_quotas_bound_every_value(sizes, most, share) -> None:
    sizes, none = np.array(sizes), np.zeros(len(sizes), int)
    quotas = bounds(sizes, most, share, none)
    assert (quotas <= np.minimum(sizes, most)).all()
    assert (quotas <= share * sizes.sum()).all()
    assert (bounds(sizes, most, None, none) == np.minimum(sizes, most)).all()
    assert (bounds(sizes, most, None, none + 3) == np.minimum(sizes, max(most - 3, 0))).all()
    cells = np.repeat(np.arange(len(sizes)), sizes)
    assert rates(quotas, sizes, cells).sum() == pytest.approx(quotas.sum())


def test_null_is_a_value_of_its_own() -> None:
    pieces = [pa.chunked_array([["b", None], []]), pa.chunked_array([["a", "b"]])]
    codes, names = encode(iter(pieces), 4)
    assert names.to_pylist() == ["(null)", "a", "b"]
    assert codes.tolist() == [2, 0, 1, 2]
    codes, names = encode(iter([pa.chunked_array([], pa.string())]), 0)
    assert len(codes) == len(names) == 0
