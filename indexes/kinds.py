"""Kinds of index, one entry each: how faiss makes an empty, trained index, and how it is asked.

An index finds candidates, as positions among its vectors. Where a kind is lossy they are scored
again with the stored vectors: a kind needs to bring the neighbours near the top, not in order.
To add a kind, write a function that makes it, add it to KINDS and its name to the settings.
"""

import contextlib
import importlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

LINKS = 32  # of a vector in an HNSW graph
EF_CONSTRUCTION = 64
PQ_BITS = 4
PQ_DIMENSIONS = 4  # that share a code of 4 bits

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Kind:
    """What faiss holds, and how much of it.

    faiss_class: what a file of this kind holds.
    code: bytes of a code of d dimensions. beside: bytes beside it. lossy: whether a code is less
    than the stored vector. new: (coarse quantizer, dimension, lists, seed) -> untrained index;
    None where every stored vector is compared, so that there are no candidates to find.
    rotated: whether it wants what is said spread evenly over the dimensions.
    """

    faiss_class: str
    code: Callable[[int], int]
    beside: int
    lossy: bool
    new: Callable[[Any, int, int, int], Any] | None
    rotated: bool = False

    @property
    def inverted(self) -> bool:
        """Whether it has inverted lists: a quantizer is trained, and shards are encoded apart."""
        return self.faiss_class.startswith("IndexIVF")

    def size(self, count: int, dimension: int, lists: int) -> int:
        """Bytes of an opened index of so many vectors."""
        return count * (self.code(dimension) + self.beside) + 4 * dimension * lists


def faiss() -> Any:
    """The faiss module, imported when it is first needed; it has no type stubs."""
    return importlib.import_module("faiss")


def _scalar(bits: str) -> Callable[[Any, int, int, int], Any]:
    def new(coarse: Any, dimension: int, lists: int, seed: int) -> Any:
        """Numbers of a few bits in inverted lists (Sivic and Zisserman 2003)."""
        coded = getattr(faiss().ScalarQuantizer, bits)
        inner_product = faiss().METRIC_INNER_PRODUCT
        return faiss().IndexIVFScalarQuantizer(
            coarse, dimension, lists, coded, inner_product, False
        )

    return new


def pq_parts(dimension: int) -> int:
    """Into how many parts a product quantizer cuts a vector: they must be of one length."""
    most = max(dimension // PQ_DIMENSIONS, 1)
    return max(parts for parts in range(1, most + 1) if dimension % parts == 0)


def _pq(coarse: Any, dimension: int, lists: int, seed: int) -> Any:
    """Product quantization (Jegou et al. 2011) to 4 bits a part, for `fast_scan`."""
    parts, inner_product = pq_parts(dimension), faiss().METRIC_INNER_PRODUCT
    index = faiss().IndexIVFPQ(coarse, dimension, lists, parts, PQ_BITS, inner_product)
    index.pq.cp.seed = seed
    return index


def _rabitq(coarse: Any, dimension: int, lists: int, seed: int) -> Any:
    """One bit a dimension of the residual (RaBitQ, Gao and Long 2024)."""
    return faiss().IndexIVFRaBitQ(coarse, dimension, lists, faiss().METRIC_INNER_PRODUCT)


def _hnsw(coarse: Any, dimension: int, lists: int, seed: int) -> Any:
    """A graph of neighbours over float16 vectors (Malkov and Yashunin 2018)."""
    index = faiss().IndexHNSWSQ(
        dimension, faiss().ScalarQuantizer.QT_fp16, LINKS, faiss().METRIC_INNER_PRODUCT
    )
    index.hnsw.efConstruction = EF_CONSTRUCTION
    return index


ID = 8  # bytes, in inverted lists
KINDS = {
    "flat": Kind("", lambda d: 0, ID, False, None),
    "ivf_flat": Kind("IndexIVFScalarQuantizer", lambda d: 2 * d, 2 * ID, False, _scalar("QT_fp16")),
    "ivf_sq8": Kind("IndexIVFScalarQuantizer", lambda d: d, 2 * ID, True, _scalar("QT_8bit")),
    "ivf_pq": Kind("IndexIVFPQ", lambda d: (pq_parts(d) + 1) // 2, 2 * ID, True, _pq),
    "ivf_rabitq": Kind("IndexIVFRaBitQ", lambda d: (d + 7) // 8 + 8, 2 * ID, True, _rabitq, True),
    "hnsw": Kind("IndexHNSWSQ", lambda d: 2 * d, ID + 8 * LINKS + 16, False, _hnsw),
}


def inverted_file(index: Any) -> Any:
    """The inverted file in an index, which may lie behind a rotation; None where there is none."""
    inner = faiss().downcast_index(index.index) if hasattr(index, "chain") else index
    return inner if hasattr(inner, "nlist") else None


def rotation(dimension: int, seed: int) -> Any:
    """A random rotation: of rows [n, dimension] by `apply`."""
    made = faiss().RandomRotationMatrix(dimension, dimension)
    made.init(seed)
    return made


def behind(rotation: Any, index: Any) -> Any:
    """An index that takes its vectors rotated."""
    whole = faiss().IndexPreTransform(rotation, index)
    rotation.this.disown()
    index.this.disown()
    whole.own_fields = True
    return whole


def turned(index: Any, vectors: Floats) -> Floats:
    """The vectors as the inverted file of an index takes them."""
    return index.chain.at(0).apply(vectors) if hasattr(index, "chain") else vectors


def as_searched(index: Any, sizes: Ids) -> Any:
    """An opened inverted file as it is searched: bytes by a scan of our own, all else by faiss.

    sizes: of its lists. 4-bit codes are packed in registers' order (Andre et al. 2017), in memory.
    """
    match type(index).__name__:
        case "IndexIVFPQ":
            packed = faiss().IndexIVFPQFastScan(index)
            packed.referenced_objects = [index]  # its coarse quantizer
            return packed
        case "IndexIVFScalarQuantizer" if index.sq.qtype == faiss().ScalarQuantizer.QT_8bit:
            from indexes.byte_lists import open_byte_lists

            return open_byte_lists(index, sizes)
        case _:
            return index


def candidates(
    index: Any, queries: Floats, k: int, effort: int, members: npt.NDArray[np.uint8] | None = None
) -> Ids:
    """Positions [n, k] of vectors that may be the most similar; -1 where fewer are found.

    effort: inverted lists to look into, or, of a graph, vectors kept in view. members: a bit for
    each position, little-endian: look at these alone. All hold for this call only: an index is
    shared between threads, and its own `nprobe` is never set.
    """
    if hasattr(index, "candidates"):
        return index.candidates(queries, k, effort, members, faiss().omp_get_max_threads())
    options: dict[str, Any] = {}
    if members is not None:
        options["sel"] = faiss().IDSelectorBitmap(members)
    inner = inverted_file(index)
    if inner is None:
        parameters = faiss().SearchParametersHNSW(efSearch=max(effort, k), **options)
    elif "RaBitQ" in type(inner).__name__:
        parameters = faiss().IVFRaBitQSearchParameters(nprobe=effort, qb=inner.qb, **options)
    else:
        parameters = faiss().SearchParametersIVF(nprobe=effort, **options)
    if hasattr(index, "chain"):
        inner_parameters, parameters = parameters, faiss().SearchParametersPreTransform()
        parameters.index_params = inner_parameters
    with _one_thread() if len(queries) == 1 else contextlib.nullcontext():
        return index.search(queries, k, params=parameters)[1]


@contextlib.contextmanager
def _one_thread() -> Generator[None]:
    """faiss on one thread, for calls of this thread alone (OpenMP keeps the number for each).

    faiss looks into lists on a thread for each query, but shares out even one query's rotation:
    on a busy machine waiting for the other threads took ten times as long as the whole query.
    """
    threads = faiss().omp_get_max_threads()
    faiss().omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss().omp_set_num_threads(threads)
