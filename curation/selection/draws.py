"""Draws keyed by uid and seed: the same row draws the same number in any shard or process."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.digests import generator
from infra.errors import SluiceError

Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

UID_BYTES = 16


@dataclass(frozen=True)
class Choice:
    """What one selector says about the n rows that came to it; all arrays [n].

    probability: of being selected, before the draw. cells: what a row fell in, -1 for nothing,
    as positions in `names`. unjudged: rows it has nothing to judge by, `why` says what is missing.
    state: what a later plan goes on from. figures: for the manifest, JSON-able.
    """

    probability: Floats
    selected: Bools
    cells: Ints
    names: pa.Array
    unjudged: Bools | None = None
    why: str = ""
    state: pa.Table | None = None
    figures: dict[str, Any] = field(default_factory=dict[str, Any])


def uid_words(uids: pa.ChunkedArray) -> Words:
    """uids of 32 hex characters -> uint64 [n, 2]."""
    text = "".join(uids.to_pylist())
    try:
        words = np.frombuffer(bytes.fromhex(text), ">u8").astype(np.uint64).reshape(-1, 2)
    except ValueError:
        words = np.empty((0, 2), np.uint64)
    if len(words) != len(uids):
        wrong = next((uid for uid in uids.to_pylist() if not _is_uid(uid)), "")
        raise SluiceError(
            f"the uid {wrong!r} is not 32 hex characters", "ingest the samples again with Sluice"
        )
    return words


def _is_uid(uid: str) -> bool:
    try:
        return len(bytes.fromhex(uid)) == UID_BYTES
    except ValueError:
        return False


def draws(uids: Words, *key: Any) -> Words:
    """A random uint64 for each uid [n, 2] and key: SplitMix64's finalizer over both (Steele 2014).

    Rows with equal uids draw equal numbers.
    """
    first, second = generator(*key).integers(0, 2**64, 2, np.uint64)
    return _mix(_mix(uids[:, 0] + first) ^ (uids[:, 1] + second))


def _mix(words: Words) -> Words:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def uniforms(uids: Words, *key: Any) -> Floats:
    """A number in [0, 1) for each uid and key."""
    return (draws(uids, *key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def lowest(cells: Ints, quotas: Ints, order: npt.NDArray[Any]) -> Bools:
    """Of each cell the `quotas[cell]` rows that come first by `order`, ties by position.

    cells: [n], -1 for rows of none, which are not chosen; quotas: [cells]; order: [n].
    """
    ranked = np.lexsort((order, cells))
    ordered = cells[ranked]
    starts = np.searchsorted(ordered, np.arange(len(quotas)))
    chosen = np.zeros(len(cells), bool)
    inside = ordered >= 0
    place = np.flatnonzero(inside) - starts[ordered[inside]]
    chosen[ranked[inside]] = place < quotas[ordered[inside]]
    return chosen


def rates(quotas: Ints, sizes: Ints, cells: Ints) -> Floats:
    """The probability of each row where `quotas` of the `sizes` rows of its cell are drawn."""
    probability = np.zeros(len(cells))
    inside = cells >= 0
    probability[inside] = np.minimum(quotas / np.maximum(sizes, 1), 1)[cells[inside]]
    return probability
