"""What an index is trained on and measured with, from a sample of a dataset version.

<version>/quantizer/<digest>/quantizer.faiss    trained, empty; absent where nothing is trained
<version>/quantizer/<digest>/leaders.npy, starts.npy    groups of its lists
<version>/quantizer/<digest>/queries.npy        held out: pictures, then captions; float16 [q, d]
<version>/quantizer/<digest>/own.npy            the row a query is, which it may not find; else -1
<version>/quantizer/<digest>/bounds.npy         a similarity that its true neighbours reach
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from threadpoolctl import threadpool_limits

from indexes import coarse
from indexes.arrays import aside, map_array, write_array
from indexes.choice import Choice, choose
from indexes.coarse import Coarse
from indexes.embeddings import Embedding, open_version, vectors_of
from indexes.files import read_faiss, write_index
from indexes.kinds import KINDS, behind, faiss, inverted_file, rotation, turned
from indexes.settings import IndexSettings
from infra import artifacts
from infra.artifacts import Part, Spec
from infra.dataset import Dataset, index_id
from infra.digests import generator
from infra.errors import SluiceError
from infra.filesystem import FilePart, join
from infra.runner import own_processors
from infra.stage import Draft, Item
from infra.threads import ahead

STAGE = "indexes.quantizer"
CODE = 2  # raised when the same vectors give other files
PART = "quantizer"
QUANTIZER = "quantizer.faiss"
TRAIN_PER_LIST = 64  # training vectors
LEAST_SAMPLE = 20_000  # vectors: what bounds and codes are trained on
SHARDS_SEEN = 1024  # at most, drawn at random
NEIGHBOURS = 100  # true neighbours that are looked for
SLACK = 1e-5  # float32 sums of another order
BLOCK, SHARE = 2**12, 2**15  # sampled vectors compared at a time, and by a thread

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Ids = npt.NDArray[np.int64]


def quantizer_draft(dataset_url: str, dataset_digest: str, settings: IndexSettings) -> Draft:
    """What is trained for an index of a dataset version; its embedding is named by `settings`."""
    named = settings.model_dump(mode="json", exclude={"publish_below_target", "after"})
    spec = Spec("quantizer", STAGE, named, (dataset_digest,), CODE)
    return Draft(join(dataset_url, "quantizer", spec.digest), spec)


def quantizer_items() -> list[Item]:
    """Training is one unit of work."""
    return [Item(PART, None)]


@dataclass(frozen=True)
class QuantizerWork:
    """Samples, chooses the kind and trains; leaves its files at `url`."""

    url: str
    dataset_url: str
    settings: IndexSettings

    def __call__(self, value: Any, todo: Sequence[str]) -> Mapping[str, Part]:
        dataset = open_version(self.dataset_url)
        embedding = vectors_of(dataset, self.settings.embedding)
        kept, settings = int(dataset.artifact.totals["kept"]), self.settings
        size = max(TRAIN_PER_LIST * (settings.lists or int(4 * kept**0.5)), LEAST_SAMPLE)
        sample = draw(dataset, embedding, size, settings)
        full = sample.vectors.shape[1]
        if settings.dimensions > full:
            raise SluiceError(
                f"index.dimensions={settings.dimensions}, {embedding.name} has {full}",
                "give fewer dimensions, or 0 for all",
            )
        dimension = settings.dimensions or full
        choice = choose(settings, kept, dimension, embedding.is_local)
        queries, own, counts = _with_texts(embedding, sample)
        arrays: dict[str, npt.NDArray[Any]] = {"queries": queries, "own": own}
        files: list[FilePart] = []
        with threadpool_limits(1), ThreadPoolExecutor(1) as beside:
            least = beside.submit(bounds, queries, own, sample)
            if KINDS[choice.kind].inverted:
                index, trained = train(sample.vectors, choice, dimension, settings.seed)
                choice = Choice(choice.kind, len(trained.centroids), choice.why)
                arrays |= {"leaders": trained.leaders, "starts": trained.starts}
                files.append(write_index(index, self.url, QUANTIZER))
            arrays["bounds"] = least.result()
        files += [write_array(self.url, f"{name}.npy", array) for name, array in arrays.items()]
        extra = {
            "scores": dict(embedding.scores.settings),
            "kind": choice.kind,
            "why": choice.why,
            "lists": choice.lists,
            "dimension": full,
            "indexed_dimensions": dimension,
            "trained_on": len(sample.vectors),
            "queries": counts,
        }
        return {"": Part(PART, tuple(files), extra=extra)}


@dataclass(frozen=True)
class Sample:
    """Vectors float16 [n, d] to train with, mapped, and their ids; ids and vectors of queries."""

    ids: Ids
    vectors: Halves
    query_ids: Ids
    queries: Halves


def draw(dataset: Dataset, embedding: Embedding, size: int, settings: IndexSettings) -> Sample:
    """About `size` rows at random, and queries that are not among them where there are enough."""
    kept = {int(part.name): part.kept for part in dataset.artifact.parts if part.kept}
    random = generator(settings.seed, STAGE)
    shards = np.array(sorted(kept), np.int64)
    shards = np.sort(random.permutation(shards)[:SHARDS_SEEN])
    counts = np.array([kept[shard] for shard in shards.tolist()], np.int64)
    shares = counts / max(counts.sum(), 1)
    training = np.minimum(np.ceil(size * shares).astype(np.int64), counts)
    asking = random.multinomial(settings.queries, shares) if len(shards) else counts
    drawn: list[tuple[Ids, Ids, Halves]] = []

    def draw_shard(share: tuple[int, int, int]) -> tuple[Halves, tuple[Ids, Ids, Halves]]:
        """Vectors to train with; their ids; ids and vectors of queries."""
        shard, train, ask = share
        stored, rows, _ = kept_rows(dataset, embedding, shard)
        order = generator(settings.seed, STAGE, shard).permutation(rows)
        trained, asked = np.sort(order[::-1][:train]), np.sort(order[:ask])
        first = index_id(shard, 0)
        return stored[trained], (first + trained, first + asked, stored[asked])

    def vectors() -> Iterator[Halves]:
        shares = zip(*(each.tolist() for each in (shards, training, asking)), strict=True)
        with coarse.single_threads() as threads:
            for rows, rest in ahead(threads, draw_shard, shares, own_processors()):
                drawn.append(rest)
                yield rows

    sample = aside(vectors(), embedding.dimension, np.float16)
    if not len(sample):
        raise SluiceError(
            f"{dataset.url} has no kept row with a vector {embedding.name}",
            "look at the report's funnel: the rules may drop everything",
        )
    ids, query_ids, queries = (np.concatenate(each) for each in zip(*drawn, strict=True))
    return Sample(ids, sample, query_ids[: settings.queries], queries[: settings.queries])


def kept_rows(
    dataset: Dataset, embedding: Embedding, shard: int
) -> tuple[Halves, npt.NDArray[np.int64], dict[str, int]]:
    """A shard's vectors, the row numbers to be indexed, and how many others by reason."""
    status = dataset.rows(shard, ["status"]).column("status")
    vectors = embedding.shard(shard)
    if len(status) != len(vectors):
        raise SluiceError(
            f"shard {shard} of {dataset.url} has {len(status)} rows, {embedding.name} "
            f"{len(vectors)} vectors",
            "the scores belong to another version: name the ones of this version",
        )
    kept = np.asarray(pc.equal(status, "ok"))  # type: ignore[attr-defined]
    present = vectors.any(axis=1)
    dropped = {"not_kept": int((~kept).sum()), "no_vector": int((kept & ~present).sum())}
    rows = np.flatnonzero(kept & present).astype(np.int64)
    return vectors, rows, {reason: count for reason, count in dropped.items() if count}


def _with_texts(embedding: Embedding, sample: Sample) -> tuple[Halves, Ids, dict[str, int]]:
    """Queries [q, d], the row that each is (-1 for a caption), and how many of each kind."""
    queries, own = sample.queries, sample.query_ids
    counts = {"image" if embedding.vector == "image" else embedding.vector: len(own)}
    texts = embedding.sibling("text") if embedding.vector == "image" else None
    if texts is not None and len(own):
        said = texts.take(own)
        said = said[said.any(axis=1)]
        if said.shape[1] == queries.shape[1] and len(said):
            counts["text"] = len(said)
            queries = np.concatenate([queries, said])
            own = np.concatenate([own, np.full(len(said), -1, np.int64)])
    return queries, own, counts


def bounds(queries: Halves, own: Ids, sample: Sample) -> Floats:
    """A similarity [q] that the NEIGHBOURS nearest of all vectors reach: those of the sample do.

    A shard needs to tell of no row below. -inf where the sample is too small to say.
    """
    k = NEIGHBOURS + 1  # a query is in no neighbourhood of its own
    wide = queries.astype(np.float32)

    def highest(rows: range) -> Floats:
        best = np.full((len(queries), k), -np.inf, np.float32)
        for start in range(rows.start, rows.stop, BLOCK):
            block = slice(start, min(start + BLOCK, rows.stop))
            products = wide @ sample.vectors[block].astype(np.float32).T
            products[own[:, None] == sample.ids[None, block]] = -np.inf
            best = np.concatenate([best, products], axis=1)
            best = -np.partition(-best, k - 1, axis=1)[:, :k]
        return best

    shares = [range(s, min(s + SHARE, len(sample.ids))) for s in range(0, len(sample.ids), SHARE)]
    with threadpool_limits(1), coarse.single_threads() as threads:
        best = np.concatenate(list(threads.map(highest, shares)), axis=1)
    return (-np.partition(-best, k - 1, axis=1))[:, :k].min(axis=1) - np.float32(SLACK)


def train(sample: Halves, choice: Choice, dimension: int, seed: int) -> tuple[Any, Coarse]:
    """A trained, empty inverted file, and how vectors are assigned to its lists."""
    kind = KINDS[choice.kind]
    assert kind.new is not None  # of kinds that compare all nothing is trained
    if dimension < sample.shape[1]:
        starts = range(0, len(sample), BLOCK)
        cut = (shortened(sample[start : start + BLOCK], dimension) for start in starts)
        sample = aside(cut, dimension, sample.dtype)
    cells = coarse.train(sample, choice.lists, seed)
    few = sample[:: max(len(sample) // LEAST_SAMPLE, 1)].astype(np.float32)
    with threadpool_limits(1):
        turn = rotation(dimension, seed) if kind.rotated else None
        if turn is not None:
            few = turn.apply(few)
            cells = replace(
                cells, centroids=turn.apply(cells.centroids), leaders=turn.apply(cells.leaders)
            )
        quantizer = coarse.quantizer(cells.centroids)
        index = kind.new(quantizer, dimension, len(cells.centroids), seed)
        quantizer.this.disown()
        index.own_fields = True
        index.train(few)
    return (index if turn is None else behind(turn, index)), cells


def shortened(vectors: npt.NDArray[Any], dimension: int) -> npt.NDArray[Any]:
    """The first dimensions of unit vectors, at unit length again (Kusupati et al. 2022)."""
    if dimension == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimension].astype(np.float32)
    length = np.linalg.norm(cut, axis=1, keepdims=True)
    return (cut / np.where(length > 0, length, 1)).astype(vectors.dtype)


@dataclass(frozen=True)
class Trained:
    """A quantizer artifact, opened. index and cells are None where nothing was trained."""

    index: Any
    cells: Coarse | None
    queries: Floats
    own: Ids
    bounds: Floats
    figures: Mapping[str, Any]

    def encode(self, vectors: Halves) -> tuple[Ids, npt.NDArray[np.uint8]]:
        """The number of a list [n] and the code [n, bytes] of each vector [n, d], on one thread."""
        assert self.cells is not None
        inner = inverted_file(self.index)
        lists = np.empty(len(vectors), np.int64)
        codes = np.empty((len(vectors), inner.code_size), np.uint8)
        for start in range(0, len(vectors), coarse.BLOCK):
            block = slice(start, start + coarse.BLOCK)
            with threadpool_limits(1):  # sums keep their order, whatever the machine has
                wide = np.ascontiguousarray(shortened(vectors[block], inner.d), np.float32)
                wide = turned(self.index, wide)
                lists[block] = self.cells.assign(wide)
                codes[block] = self.codes(wide, lists[block])
        return lists, codes

    def codes(self, turned: Floats, lists: Ids) -> npt.NDArray[np.uint8]:
        """The codes of vectors, as the inverted file takes them, in these lists."""
        inner, pointer = inverted_file(self.index), faiss().swig_ptr
        codes = np.empty((len(turned), inner.code_size), np.uint8)
        inner.encode_vectors(len(turned), pointer(turned), pointer(lists), pointer(codes))
        return codes


@lru_cache(maxsize=2)
def open_quantizer(url: str) -> Trained:
    """A committed quantizer; a worker keeps the last, for its next shard."""
    artifact = artifacts.load(url)
    if artifact is None:
        raise SluiceError(f"there is no quantizer at {url}", "run `prefect run index`")
    (part,) = artifact.parts
    arrays = {
        file.path.removesuffix(".npy"): map_array(artifact.path(file.path))
        for file in part.files
        if file.path.endswith(".npy")
    }
    index = cells = None
    for file in part.files:
        if file.path == QUANTIZER:
            index = read_faiss(artifact.path(QUANTIZER), file.sha256)
            coarse_index = faiss().downcast_index(inverted_file(index).quantizer)
            shape = coarse_index.ntotal, coarse_index.d
            # Not copied: they stay where they are as long as the index, which lies beside them.
            centroids = faiss().rev_swig_ptr(coarse_index.get_xb(), shape[0] * shape[1])
            cells = Coarse(centroids.reshape(shape), arrays["leaders"], arrays["starts"])
    queries = arrays["queries"].astype(np.float32)
    return Trained(index, cells, queries, arrays["own"], arrays["bounds"], part.extra)
