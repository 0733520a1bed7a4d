"""Draws keyed by uid and seed: the same row draws the same number in any shard or process.

What takes all rows goes over them in blocks, so that it holds little beside what it returns.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.digests import generator
from infra.errors import SluiceError

Words = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

UID_BYTES = 16
BLOCK = 1 << 18  # rows worked on at once


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


def blocks(count: int) -> Iterator[slice]:
    """Slices of at most BLOCK that make up `count` rows."""
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


def draws(uids: Words, *key: Any) -> Words:
    """A random uint64 for each uid [n, 2] and key: SplitMix64's finalizer over both (Steele 2014).

    Rows with equal uids draw equal numbers.
    """
    first, second = generator(*key).integers(0, 2**64, 2, np.uint64)
    found = np.empty(len(uids), np.uint64)
    for part in blocks(len(uids)):
        found[part] = _mix(_mix(uids[part, 0] + first) ^ (uids[part, 1] + second))
    return found


def _mix(words: Words) -> Words:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def uniforms(uids: Words, *key: Any) -> Floats:
    """A number in [0, 1) for each uid and key."""
    return (draws(uids, *key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def drawn(uids: Words, probability: Floats, *key: Any) -> Bools:
    """Whether each row is drawn, with a probability [n] of its own."""
    found = np.empty(len(uids), bool)
    for part in blocks(len(uids)):
        found[part] = uniforms(uids[part], *key) < probability[part]
    return found
