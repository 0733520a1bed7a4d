"""How far an index must look, and what it finds then: recall against brute force, and time.

The queries are held out, and of two kinds that are distributed differently: pictures and captions.
One half chooses how many lists to probe and how many candidates to compare; the other half asks
for more where that was chance, and gives the figures. The truth comes from the shards, which
compared every row.
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from indexes import exact
from indexes.embeddings import Embedding
from indexes.kinds import KINDS, LINKS
from indexes.lookup import LEAST, Lookup
from indexes.quantizer import NEIGHBOURS, Trained
from infra.dataset import index_id

RECALL_AT = (1, LEAST, NEIGHBOURS)
TARGET = f"recall@{LEAST}"  # what the target is of
FACTORS = (1, 2, 3, 5, 8, 12, 20, 32, 64, 128)  # candidates compared for each result
MORE = (1, 1.3, 1.7, 2.2)  # lists than the fewest that do, if fewer candidates do then
POINTS = (0.25, 0.5, 2)  # times the lists chosen, whose recall@10 is told, too
BYTE_SECONDS, PAIR_SECONDS = 8e-11, 3e-7  # to look at a code's byte, and to compare a candidate
MOST_IN_VIEW = 2**12  # of a graph: with more, a query costs as much as comparing 250,000 vectors
STEP = 1.25  # as much effort again, while the other half finds it too little
SURE = 1.96  # standard errors below a mean: true in 39 of 40 cases
LATENCIES = 200  # queries timed one by one
PATIENCE = 5.0  # seconds for the queries of a kind that are timed

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Queries:
    """Queries of one kind and, by brute force, how similar their true neighbours are.

    vectors [n, d]; own [n], the row a query may not find, or -1; true [n, NEIGHBOURS], the
    similarities of the neighbours, best first, -inf where there are fewer.
    """

    vectors: Floats
    own: Ids
    true: Floats

    def half(self, start: int) -> "Queries":
        return Queries(self.vectors[start::2], self.own[start::2], self.true[start::2])

    def recalls(self, similarity: Floats, found: Ids, k: int) -> Floats:
        """Share of each query's true k neighbours found; one as similar as the last counts, too."""
        own = (found < 0) | ((found == self.own[:, None]) & (self.own[:, None] >= 0))
        best = -np.sort(-np.where(own, -np.inf, similarity), axis=1)[:, :k]
        known = np.isfinite(self.true[:, :k]).sum(axis=1)
        last = np.take_along_axis(self.true, np.maximum(known - 1, 0)[:, None], 1)
        right = ((best >= last) & np.isfinite(best)).sum(axis=1)
        return (np.minimum(right, known) / np.maximum(known, 1)).astype(np.float32)


def queries_of(
    trained: Trained, truths: Iterable[tuple[int, npt.NDArray[Any]]], embedding: Embedding
) -> dict[str, Queries]:
    """The queries by kind, with the truth that shards found (shard, TRUTH)."""
    count = len(trained.queries)
    similarity = np.full((count, NEIGHBOURS + 1), -np.inf, np.float32)
    ids = np.full((count, NEIGHBOURS + 1), -1, np.int64)
    for shard, truth in truths:
        similarity, ids = _merged(similarity, ids, truth, shard, trained.own)
    true = exact.similarities(embedding, trained.queries, ids[:, :NEIGHBOURS])
    true = -np.sort(-true, axis=1)
    found: dict[str, Queries] = {}
    start = 0
    for kind, number in trained.figures["queries"].items():
        part = slice(start, start + number)
        known = np.isfinite(true[part, 0])
        if known.any():
            queries = trained.queries[part][known], trained.own[part][known], true[part][known]
            found[kind] = Queries(*queries)
        start += number
    return found


def _merged(
    similarity: Floats, ids: Ids, truth: npt.NDArray[Any], shard: int, own: Ids
) -> tuple[Floats, Ids]:
    """The best so far, with those of a shard (sorted by query)."""
    query = truth["query"]
    found = index_id(shard, 0) + truth["row"].astype(np.int64)
    kept = found != own[query]
    query, found, values = query[kept], found[kept], truth["similarity"][kept]
    counts = np.bincount(query, minlength=len(ids))
    widest = int(counts.max(initial=0))
    place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    wide = np.full((len(ids), widest), -np.inf, np.float32)
    wide_ids = np.full((len(ids), widest), -1, np.int64)
    wide[query, place], wide_ids[query, place] = values, found
    both = np.concatenate([similarity, wide], axis=1), np.concatenate([ids, wide_ids], axis=1)
    return exact.top(*both, similarity.shape[1])


def measure(lookup: Lookup, queries: dict[str, Queries], target: float) -> dict[str, Any]:
    """The effort that reaches the target, and the recall it has: a function of the inputs alone."""
    halves = {kind: each.half(0) for kind, each in queries.items() if len(each.own) > 1}
    others = {kind: each.half(1) for kind, each in queries.items() if len(each.own) > 1}
    if lookup.index is None:
        recall = _recalls(lookup, others, 0, 1)
        return {"probes": 0, "factor": 1, **recall, "points": []}
    factors, most = _factors(lookup), _most(lookup)
    probes, factor = _cheapest(lookup, halves, factors, target)
    while probes < most and _worst(lookup, others, probes, factor) < target:
        probes = min(most, math.ceil(probes * STEP))
        if len(factors) > 1:
            factor = math.ceil(factor * STEP)
    points = [
        {"probes": effort, **_recalls(lookup, others, effort, factor, (LEAST,))}
        for effort in sorted({min(most, math.ceil(probes * times)) for times in POINTS} - {probes})
    ]
    chosen = {"probes": probes, "factor": factor, **_recalls(lookup, others, probes, factor)}
    return {**chosen, "points": points}


def _cheapest(
    lookup: Lookup, queries: dict[str, Queries], factors: tuple[int, ...], target: float
) -> tuple[int, int]:
    """The effort and factor that reach the target at the least cost; the most where none do."""
    most = _most(lookup)

    @cache
    def reached(effort: int) -> dict[int, float]:
        return _least(lookup, queries, effort, factors)

    least = _fewest(most, lambda effort: max(reached(effort).values()) >= target)
    seconds = BYTE_SECONDS * _code_bytes(lookup) * _looked_at(lookup)  # for a list, or one in view
    options: list[tuple[float, int, int]] = []
    for effort in sorted({min(most, math.ceil(least * more)) for more in MORE}):
        enough = [factor for factor, recall in reached(effort).items() if recall >= target]
        factor = min(enough, default=factors[-1])
        options.append((effort * seconds + LEAST * factor * PAIR_SECONDS, effort, factor))
        if len(factors) == 1:
            break  # more effort would spare no candidates
    _, effort, factor = min(options)
    return effort, factor


def _is_graph(lookup: Lookup) -> bool:
    return lookup.index is not None and not lookup.figures["lists"]


def _most(lookup: Lookup) -> int:
    """The most effort worth trying: every list, or so many vectors of a graph in view."""
    return int(lookup.figures["lists"]) or min(lookup.size, MOST_IN_VIEW)


def _looked_at(lookup: Lookup) -> float:
    """Codes that are looked at for each unit of effort."""
    return 2 * LINKS if _is_graph(lookup) else lookup.size / int(lookup.figures["lists"])


def _factors(lookup: Lookup) -> tuple[int, ...]:
    """How many candidates for each result may be worth comparing."""
    if not lookup.figures["lossy"]:
        return (1,)
    fine = _code_bytes(lookup) >= lookup.figures["dimension"]
    return FACTORS[:5] if fine else FACTORS


def _code_bytes(lookup: Lookup) -> int:
    return KINDS[lookup.figures["kind"]].code(int(lookup.figures["indexed_dimensions"]))


def _worst(lookup: Lookup, queries: dict[str, Queries], effort: int, factor: int) -> float:
    recall = _recalls(lookup, queries, effort, factor, (LEAST,))[TARGET]
    return min(recall.values(), default=1.0)


def _least(
    lookup: Lookup, queries: dict[str, Queries], effort: int, factors: tuple[int, ...]
) -> dict[int, float]:
    """Recall@10 of the worst kind of queries, by factor, from one search with the largest.

    It is the lower end of an interval, so that other queries will hardly fall short by chance.
    """
    worst = dict.fromkeys(factors, 1.0)
    for each in queries.values():
        spare = int((each.own >= 0).any())
        wanted = min(LEAST * factors[-1] + spare, lookup.size)
        similarity, found = lookup.scored(each.vectors, wanted, effort)
        for factor in factors:
            among = slice(LEAST * factor + spare)
            recalls = each.recalls(similarity[:, among], found[:, among], LEAST)
            doubt = SURE * float(recalls.std()) / len(recalls) ** 0.5
            worst[factor] = min(worst[factor], float(recalls.mean()) - doubt)
    return worst


def _recalls(
    lookup: Lookup,
    queries: dict[str, Queries],
    effort: int,
    factor: int,
    at: Sequence[int] = RECALL_AT,
) -> dict[str, dict[str, float]]:
    """Recall at some k by kind of query, from one search for the largest of them.

    A graph is asked anew for fewer, where it then keeps less in view.
    """
    recalls: dict[str, dict[str, float]] = {f"recall@{k}": {} for k in at}
    for kind, each in queries.items():
        spare = int((each.own >= 0).any())
        wanted = {k: min(max(k, LEAST) * factor + spare, lookup.size) for k in at}
        widest = max(wanted.values())
        similarity, found = _asked(lookup, each, widest, effort)
        view = max(effort, widest)
        for k, count in sorted(wanted.items(), reverse=True):
            if _is_graph(lookup) and max(effort, count) < view:
                similarity, found = _asked(lookup, each, count, effort)
                view = max(effort, count)
            recall = each.recalls(similarity[:, :count], found[:, :count], k).mean()
            recalls[f"recall@{k}"][kind] = round(float(recall), 6)
    return recalls


def _asked(lookup: Lookup, queries: Queries, count: int, effort: int) -> tuple[Floats, Ids]:
    """So many candidates of each query, in the index's order; of no index the nearest."""
    if lookup.index is None:
        return exact.nearest(lookup.embedding, queries.vectors, lookup.ids, count)
    return lookup.scored(queries.vectors, count, effort)


def _fewest(most: int, enough: Any) -> int:
    """The least effort that is enough, by doubling and halving; `most` where none is."""
    high = 1
    while high < most and not enough(high):
        high = min(2 * high, most)
    low = high // 2
    while high - low > max(1, high // 16):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def latency(lookup: Lookup, queries: dict[str, Queries]) -> dict[str, float]:
    """Milliseconds of queries asked one by one, for ten results, as this machine has it.

    No more than are answered in PATIENCE: where vectors lie in a remote store each costs requests.
    """
    taken: list[float] = []
    for each in queries.values():
        until = time.perf_counter() + PATIENCE
        for vector in each.vectors[:LATENCIES]:
            start = time.perf_counter()
            if start > until:
                break
            lookup.nearest(vector[None], LEAST, None)
            taken.append(1000 * (time.perf_counter() - start))
    if not taken:
        return {}
    return {f"p{share}": round(float(np.percentile(taken, share)), 3) for share in (50, 95, 99)}
