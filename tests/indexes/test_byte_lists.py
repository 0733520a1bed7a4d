"""The scan of byte lists, against faiss's own search of the same file and against plain sums."""

from typing import Any

import faiss
import numpy as np
import pytest

from indexes.byte_lists import ByteLists
from indexes.kinds import KINDS

COUNT, DIMENSION, LISTS = 6000, 24, 12


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(LISTS, DIMENSION))
    return unit(centres[rng.integers(0, LISTS, COUNT)] + 0.5 * rng.normal(size=(COUNT, DIMENSION)))


@pytest.fixture(scope="module")
def index(vectors: np.ndarray) -> Any:
    """faiss's own, with all vectors in memory."""
    quantizer = faiss.IndexFlatIP(DIMENSION)
    new = KINDS["ivf_sq8"].new
    assert new is not None
    made = new(quantizer, DIMENSION, LISTS, 0)
    made.train(vectors)
    made.add(vectors)
    made.referenced_objects = [quantizer]
    return made


@pytest.fixture(scope="module")
def lists(index: Any) -> ByteLists:
    """The same lists, laid out as `merge` writes them."""
    pieces, sizes, starts = [], [], []
    for number in range(LISTS):
        size = index.invlists.list_size(number)
        codes = faiss.rev_swig_ptr(index.invlists.get_codes(number), size * DIMENSION)
        ids = faiss.rev_swig_ptr(index.invlists.get_ids(number), size)
        starts.append(sum(len(piece) for piece in pieces))
        sizes.append(size)
        pieces += [codes.copy(), ids.astype("<i8").view(np.uint8)]
    return ByteLists(
        np.concatenate(pieces),
        np.array(starts),
        np.array(sizes),
        index.sq.compute_codes(index.quantizer.reconstruct_n()),
        faiss.vector_to_array(index.sq.trained)[DIMENSION:],
        index,
    )


def queries(count: int = 40) -> np.ndarray:
    return unit(np.random.default_rng(1).normal(size=(count, DIMENSION)))


def members_of(chosen: np.ndarray) -> np.ndarray:
    bits = np.zeros(COUNT, bool)
    bits[chosen] = True
    return np.packbits(bits, bitorder="little")


def test_it_ranks_as_faiss_does(lists: ByteLists, index: Any) -> None:
    asked = queries()
    found = lists.candidates(asked, 50, LISTS)
    _, expected = index.search(asked, 50, params=faiss.SearchParametersIVF(nprobe=LISTS))
    shared = [len({*a} & {*b}) for a, b in zip(found.tolist(), expected.tolist(), strict=True)]
    assert np.mean(shared) >= 49.5  # factors are rounded: what is all but equal may change places
    assert (found[:, 0] == expected[:, 0]).mean() >= 0.95


def test_scores_are_exact_sums_and_ties_go_to_the_lower_position(lists: ByteLists) -> None:
    """Against the same sums by numpy, over every code."""
    asked = queries(8)
    factors = lists.factors(asked).astype(np.int64)
    codes, positions = [], []
    for start, size in zip(lists.starts.tolist(), lists.sizes.tolist(), strict=True):
        middle = start + size * DIMENSION
        codes.append(lists.data[start:middle].reshape(size, DIMENSION))
        positions.append(lists.data[middle : middle + 8 * size].view(np.int64))
    every, where = np.concatenate(codes).astype(np.int64), np.concatenate(positions)
    scores = factors @ every.T
    order = np.lexsort((np.broadcast_to(where, scores.shape), -scores), axis=1)[:, :100]
    assert np.array_equal(lists.candidates(asked, 100, LISTS), where[order])


@pytest.mark.parametrize("probes", [1, 5, LISTS])
def test_threads_and_batches_leave_no_trace(lists: ByteLists, probes: int) -> None:
    asked = queries()
    whole = lists.candidates(asked, 20, probes)
    assert np.array_equal(lists.candidates(asked, 20, probes, threads=2), whole)
    assert np.array_equal(lists.candidates(asked, 20, probes, threads=5), whole)
    alone = [lists.candidates(query[None], 20, probes) for query in asked]
    assert np.array_equal(np.concatenate(alone), whole)


def test_members_alone_are_found_and_all_of_them(lists: ByteLists) -> None:
    chosen = np.arange(7, COUNT, 611)
    found = lists.candidates(queries(3), 30, LISTS, members_of(chosen))
    for row in found:
        assert set(row[: len(chosen)]) == set(chosen)
        assert (row[len(chosen) :] == -1).all()


def test_fewer_codes_than_asked_for_end_in_minus_one(lists: ByteLists) -> None:
    found = lists.candidates(queries(2), COUNT + 5, LISTS, threads=2)
    assert (found[:, :COUNT] >= 0).all()
    assert (found[:, COUNT:] == -1).all()
    assert set(found[0, :COUNT]) == set(range(COUNT))


def test_a_query_of_zeros_is_answered(lists: ByteLists) -> None:
    found = lists.candidates(np.zeros((1, DIMENSION), np.float32), 5, LISTS)
    assert found.tolist() == [[0, 1, 2, 3, 4]]


def test_positions_of_a_damaged_file_are_not_looked_up(lists: ByteLists) -> None:
    damaged = lists.data.copy()
    for start, size in zip(lists.starts.tolist(), lists.sizes.tolist(), strict=True):
        damaged[start + size * DIMENSION : start + size * (DIMENSION + 8)] = 0x7F
    broken = ByteLists(damaged, *(getattr(lists, n) for n in ("starts", "sizes")),
                       lists.centroids, lists.span, None)  # fmt: skip
    found = broken.candidates(queries(2), 5, LISTS, members_of(np.arange(COUNT)))
    assert (found == -1).all()


@pytest.mark.parametrize("dimension", [1, 3, 768, 4096])
def test_factors_never_overflow_a_sum_of_32_bits(dimension: int) -> None:
    span = np.ones(dimension, np.float32)
    empty = np.zeros(0, np.int64)
    lists = ByteLists(np.zeros(0, np.uint8), empty, empty, np.zeros((0, dimension), np.uint8),
                      span, None)  # fmt: skip
    factors = lists.factors(np.ones((1, dimension), np.float32)).astype(np.int64)
    assert 2**22 < (255 * factors).sum() < 2**31
