"""Pairs that may be close, without comparing all: codes of random planes, cut into bands.

Bit i of a row's code says on which side of random plane i the vector lies. Two vectors at angle
x differ in each bit with probability x / pi, whatever the data (Goemans and Williamson 1995;
Charikar 2002). Tables group the rows by a few bits of the code, drawn at random (Indyk and
Motwani 1998); a pair is a candidate if it shares a group in any table and its whole codes differ
in no more bits than pairs at the threshold do. So the share of pairs lost is chosen beforehand,
by arithmetic, and whether a pair is found depends on the pair and the number of rows, not on the
order of rows, blocks or threads: all sums are of whole numbers small enough to be exact.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import acos, lgamma, log2, pi
from typing import Any

import numpy as np
import numpy.typing as npt

BITS = 256
VECTOR_STEPS, PLANE_STEPS = 4096.0, 32.0  # products of whole numbers, sums below 2^24
BLOCK = 8192
SAMPLE = 2048
PART = 1 << 28  # keys sorted at once, or half of them: bounds the memory besides the codes
ROOM = 1 << 18  # pairs handed over at once
FAR = 0.2  # of the pairs that may be lost, the share lost for codes too far apart
ROW_COST, PAIR_COST = 25.0, 3.0  # nanoseconds: a row in a table, a pair in a group

Floats = npt.NDArray[np.floating[Any]]
Ids = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Plan:
    """How to search. bits [tables, b]: places of the bits of each table's key."""

    bits: Ids
    limit: int  # bits in which the codes of a candidate may differ
    seconds: float  # estimated, on one core

    @property
    def masks(self) -> Words:
        """The bits of each table's key, as words: [tables, 4]."""
        chosen = np.zeros((len(self.bits), BITS), np.uint8)
        np.put_along_axis(chosen, self.bits, 1, axis=1)
        return np.packbits(chosen, axis=1, bitorder="little").view("<u8")


def codes(vectors: Floats, device: str = "cpu") -> Words:
    """The code of each row: [n, d] -> [n, 4]. `device`: where the products are made.

    Bits do not depend on the length of a vector, nor on the device.
    """
    dimension = vectors.shape[1]
    planes = np.random.default_rng(0).standard_normal((dimension, BITS))
    planes = np.rint(planes * PLANE_STEPS).astype(np.float32)
    made = np.empty((len(vectors), BITS // 64), np.uint64)
    times = _products(planes, device)
    for start in range(0, len(vectors), BLOCK):
        block = np.asarray(vectors[start : start + BLOCK], np.float32) * np.float32(VECTOR_STEPS)
        sides = times(np.rint(block, out=block)) >= 0
        made[start : start + BLOCK] = np.packbits(sides, axis=1, bitorder="little").view("<u8")
    return made


def _products(planes: npt.NDArray[np.float32], device: str) -> Any:
    if device == "cpu":
        return lambda block: block @ planes
    import torch

    there = torch.from_numpy(planes).to(device)
    return lambda block: (torch.from_numpy(block).to(device) @ there).cpu().numpy()


def plan(every: Words, cosine: float, misses: float) -> Plan:
    """The cheapest search that loses a pair of this cosine with probability `misses` at most.

    Closer pairs are lost more rarely. More bits in a key make smaller groups and need more tables;
    what groups hold is estimated from the codes [n, 4] of a sample of rows.
    """
    count = len(every)
    near = _binomial(acos(min(cosine, 1.0)) / pi)
    limit = int(np.searchsorted(np.cumsum(near), 1 - FAR * misses))
    near = np.where(np.arange(BITS + 1) <= limit, near, 0)
    apart = _apart(every[:: max(1, count // SAMPLE)][:SAMPLE])
    best: tuple[float, int, int] = (np.inf, 1, 1)
    for bits in range(4, max(6, int(log2(max(count, 2))) + 3)):
        together = _together(bits)
        tables = _tables(near, together, 1 - misses)
        pairs = count * count / 2 * float(apart @ together)
        best = min(best, (tables * (ROW_COST * count + PAIR_COST * pairs), bits, tables))
    cost, bits, tables = best
    shuffled = np.random.default_rng(1).permuted(np.tile(np.arange(BITS), (tables, 1)), axis=1)
    return Plan(np.sort(shuffled[:, :bits], axis=1), limit, cost / 1e9)


def candidates(every: Words, chosen: Plan, known: int = 0) -> Iterator[tuple[Ids, Ids]]:
    """Pairs a < b with b >= known that the plan finds, each once, in batches of ROOM or so."""
    from indexes import band_kernels as kernels

    key_bits = max(4, len(every).bit_length() - 1)
    keys, shift = 1 << key_bits, np.uint64(64 - key_bits)
    index = np.int32 if len(every) < 2**31 else np.int64
    part = min(PART, keys // 2)
    starts = np.empty(part + 1, index)
    masks = chosen.masks
    for table in range(len(masks)):
        for first in range(0, keys, part):
            place = (every, masks[table], shift, first, starts)
            rows = np.empty(kernels.count_keys(*place), index)
            kernels.sort_by_key(*place, rows)
            room = max(ROOM, int(np.diff(starts).max()))
            a, b, state = np.empty(room, np.int64), np.empty(room, np.int64), np.zeros(2, np.int64)
            while state[0] < len(starts) - 1:
                found = kernels.close_pairs(
                    every, masks, table, chosen.limit, known, starts, rows, state, a, b
                )
                yield a[:found].copy(), b[:found].copy()


def _log_choose(n: npt.NDArray[Any], k: int) -> npt.NDArray[np.float64]:
    return np.array([lgamma(m + 1) - lgamma(k + 1) - lgamma(m - k + 1) for m in n.tolist()])


def _binomial(chance: float) -> npt.NDArray[np.float64]:
    """Probability that 0, 1, ... BITS bits differ, when each does with this chance."""
    chance = min(max(chance, 1e-9), 0.5)
    differ = np.arange(BITS + 1)
    ways = np.array([lgamma(BITS + 1) - lgamma(h + 1) - lgamma(BITS - h + 1) for h in differ])
    return np.exp(ways + differ * np.log(chance) + (BITS - differ) * np.log1p(-chance))


def _together(bits: int) -> npt.NDArray[np.float64]:
    """Probability that codes 0, 1, ... BITS bits apart agree in `bits` places drawn at random."""
    agree = np.arange(BITS, -1, -1)
    shares = np.zeros(BITS + 1)
    enough = agree >= bits
    shares[enough] = np.exp(_log_choose(agree[enough], bits) - _log_choose(agree[:1], bits))
    return shares


def _tables(near: Any, together: Any, wanted: float) -> int:
    """The least number of tables of which one has the pair, with probability `wanted`."""
    low, high = 0, 1
    while near @ (1 - (1 - together) ** high) < wanted:
        low, high = high, 2 * high
        if high > 1 << 16:
            return high
    while high - low > 1:
        middle = (low + high) // 2
        if near @ (1 - (1 - together) ** middle) < wanted:
            low = middle
        else:
            high = middle
    return high


def _apart(sample: Words) -> npt.NDArray[np.float64]:
    """Share of the pairs of a sample whose codes are 0, 1, ... BITS bits apart."""
    counts = np.zeros(BITS + 1)
    for start in range(0, len(sample), 64):
        differ = np.bitwise_count(sample[start : start + 64, None] ^ sample[None])
        counts += np.bincount(differ.sum(-1, dtype=np.int64).ravel(), minlength=BITS + 1)
    counts[0] -= len(sample)  # each row with itself
    return counts / max(counts.sum(), 1)
