"""Inverted lists of one byte a dimension, scanned for many queries at once.

A code c of a vector x stands for x[k] = low[k] + (c[k] + 1/2) / 255 * span[k] (faiss, QT_8bit),
so that the inner product with a query q is, but for what is the same for all vectors, the sum over
k of (q[k] * span[k]) * c[k]. The factors are rounded to whole numbers of up to 15 bits; the rest is
sums of whole numbers, which are exact: the same candidates on every machine, with any number of
threads, and alone as in a batch. Each list is read once for all queries that look into it.

faiss 1.15 turns every byte into a float again for every query, which takes several times as long
(README, Figures).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from indexes.kinds import ID, faiss

RANKED = 32  # queries whose scores of all lists are held at a time, by a thread
ALONE = 2**14  # codes to look at, for which a second thread is not worth its start

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Factors = npt.NDArray[np.int16]
Result = TypeVar("Result")


@dataclass(frozen=True)
class ByteLists:
    """A trained inverted file of faiss (IndexIVFScalarQuantizer, QT_8bit), opened to be scanned.

    data: the lists, one after the other, each its codes [n, d] and then its positions int64 [n];
    starts [nlist], the byte where each begins; sizes [nlist], its vectors. centroids: coded like
    vectors, as one list without positions. span [d]: see above. held: what must live as long.
    """

    data: Bytes
    starts: Ids
    sizes: Ids
    centroids: Bytes
    span: Floats
    held: Any

    @property
    def d(self) -> int:
        return len(self.span)

    @property
    def nlist(self) -> int:
        return len(self.sizes)

    @property
    def ntotal(self) -> int:
        return int(self.sizes.sum())

    def candidates(
        self,
        queries: Floats,
        k: int,
        probes: int,
        members: Bytes | None = None,
        threads: int = 1,
    ) -> Ids:
        """Positions [n, k] of the best codes in the `probes` best lists of each query, best first.

        -1 where there are fewer. Ties go to the lower position. members: a bit for each position,
        little-endian: look at these alone.
        """
        factors = self.factors(queries)
        lists = self._lists(factors, min(probes, self.nlist), threads)
        some = np.empty(0, np.uint8) if members is None else members
        asked = np.repeat(np.arange(len(queries)), lists.shape[1])
        order = np.argsort(lists, axis=None, kind="stable")
        visited, asked = lists.ravel()[order], asked[order]

        def scanned(share: slice) -> npt.NDArray[np.int64]:
            return self._scanned(visited[share], asked[share], factors, k, some)

        found = _in_threads(scanned, _shares(self.sizes[visited], threads))
        return found[0][1] if len(found) == 1 else _merged(np.concatenate(found, axis=2), k)

    def _lists(self, factors: Factors, probes: int, threads: int) -> Ids:
        """The lists [n, probes] whose centroids are best."""
        from indexes.byte_lists_kernels import list_scores

        lists = np.empty((len(factors), probes), np.int64)

        def choose(share: slice) -> None:
            for start in range(share.start, share.stop, RANKED):
                block = slice(start, min(start + RANKED, share.stop))
                scores = np.empty((block.stop - start, self.nlist), np.int32)
                list_scores(self.centroids, factors[block], scores)
                lists[block] = _best(scores, probes)

        _in_threads(choose, _shares(np.full(len(factors), self.nlist), threads))
        return lists

    def factors(self, queries: Floats) -> Factors:
        """What a byte counts in each dimension, int16 [n, d]: as large as 32-bit sums allow."""
        most = min((2**31 - 1) // (255 * self.d), 2**15 - 1)
        wide = queries.astype(np.float64) * self.span
        largest = np.abs(wide).max(axis=1, keepdims=True)
        return np.rint(wide * (most / np.where(largest > 0, largest, 1))).astype(np.int16)

    def _scanned(
        self, lists: Ids, asked: Ids, factors: Factors, k: int, members: Bytes
    ) -> npt.NDArray[np.int64]:
        """Scores and positions int64 [2, n, k] of the best codes that these visits see."""
        from indexes.byte_lists_kernels import scan

        best = np.empty((2, len(factors), k), np.int64)
        scan(self.data, self.starts, self.sizes, lists, asked, factors, members, best[0], best[1])
        return best


def open_byte_lists(index: Any, sizes: Ids) -> ByteLists:
    """The lists that an inverted file of faiss has mapped; nothing of them is read."""
    starts = np.zeros(len(sizes), np.int64)
    np.cumsum(sizes[:-1] * (index.d + ID), out=starts[1:])
    lists = faiss().downcast_InvertedLists(index.invlists)
    data = faiss().rev_swig_ptr(lists.ptr, lists.totsize)
    centroids = index.sq.compute_codes(faiss().downcast_index(index.quantizer).reconstruct_n())
    span = faiss().vector_to_array(index.sq.trained)[index.d :]
    return ByteLists(data, starts, sizes, centroids, span, index)


def _best(scores: npt.NDArray[np.int32], count: int) -> Ids:
    """The places [n, count] of the highest of each row; among equals the first."""
    if count < scores.shape[1]:
        edge = -np.partition(-scores.astype(np.int64), count - 1, axis=1)[:, count - 1 : count]
        # Those above the last one chosen come before all its equals, and these in their order.
        rank = np.where(scores > edge, 2, scores == edge).astype(np.int8)
        return np.argsort(-rank, axis=1, kind="stable")[:, :count]
    return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)


def _shares(work: Ids, threads: int) -> Sequence[slice]:
    """Places, of so much work each (codes to look at), cut into about as much for each thread."""
    done = np.cumsum(work)
    if threads == 1 or not len(done) or done[-1] < ALONE:
        return [slice(0, len(work))]
    ends = np.searchsorted(done, done[-1] * np.arange(1, threads) // threads)
    return [slice(*pair) for pair in pairwise([0, *ends.tolist(), len(work)])]


def _in_threads(function: Callable[[slice], Result], shares: Sequence[slice]) -> list[Result]:
    if len(shares) == 1:
        return [function(shares[0])]
    return list(_threads(len(shares)).map(function, shares))


def _merged(found: npt.NDArray[np.int64], k: int) -> Ids:
    """Positions [n, k] of the best of scores and positions [2, n, m], best first."""
    scores, positions = found
    order = np.lexsort((positions, -scores), axis=1)[:, :k]
    return np.take_along_axis(positions, order, 1)


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "scan")
