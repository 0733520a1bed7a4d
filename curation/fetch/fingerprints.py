"""Sets of fingerprints, millions of them: members of one width, and hashes close to members."""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

HASH_BITS = 64
_MEMBERS_A_BUCKET = 4


class Digests:
    """A set of byte strings of one width, 8 or a multiple of it: width + 2 bytes each.

    Sorted rows, found by their first bits: a look-up reads a handful of neighbours.
    """

    def __init__(self, data: bytes | bytearray, width: int) -> None:
        """data: the members one after the other, in any order, repeated or not."""
        self.width = width
        words = np.frombuffer(data, ">u8").reshape(-1, width // 8).astype(np.uint64)
        words = words[np.argsort(words[:, 0])]
        tied = np.flatnonzero(words[1:, 0] == words[:-1, 0])
        if len(tied):  # rare but for members given twice: only these are sorted by all words
            some = np.zeros(len(words), np.bool_)
            some[tied] = some[tied + 1] = True
            words[some] = words[some][np.lexsort(words[some].T[::-1])]
            again = tied[(words[tied] == words[tied + 1]).all(1)]
            words = np.delete(words, again, axis=0)
        self._bits = _bits(len(words))
        self._starts = _starts(words[:, 0] >> np.uint64(HASH_BITS - self._bits), self._bits)
        self._rows = words.astype(">u8").view(np.uint8)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        return self._rows.nbytes + self._starts.nbytes

    def __contains__(self, member: bytes) -> bool:
        bucket = int.from_bytes(member[:8], "big") >> (HASH_BITS - self._bits)
        first, end = self._starts[bucket], self._starts[bucket + 1]
        if first == end:
            return False
        near = self._rows[first:end].tobytes()
        at = near.find(member)
        while at % self.width and at > 0:  # found across two rows
            at = near.find(member, at + 1)
        return at >= 0

    def words(self) -> npt.NDArray[np.uint64]:
        """The members of 8 bytes as numbers."""
        return self._rows.view(">u8").ravel().astype(np.uint64)

    def sha256(self) -> str:
        """Of the members in order: equal for equal sets."""
        return hashlib.sha256(self._rows.data if len(self) else b"").hexdigest()


class NearHashes:
    """A set of 64-bit hashes, asked whether one lies within `distance` bits.

    Multi-index hashing (Norouzi, Punjani, Fleet 2012): with distance // 2 + 1 bands, a close hash
    differs in at most one bit in some band, so that few buckets of each band have to be read.
    Takes 8 bytes and a little more for each band.
    """

    def __init__(self, hashes: npt.NDArray[np.uint64], distance: int) -> None:
        hashes = np.sort(hashes)
        hashes = hashes[np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]))]
        self._distance = distance
        bands = distance // 2 + 1
        bits = min(HASH_BITS // bands, _bits(len(hashes)))
        self._shifts = (np.arange(bands) * HASH_BITS // bands).astype(np.uint64)
        self._mask = np.uint64((1 << bits) - 1)
        # With its band turned to the front, sorting a hash sorts it by its band.
        self._hashes = np.empty(bands * len(hashes), np.uint64)
        self._starts = np.empty((bands, (1 << bits) + 1), np.uint32)
        for band, shift in enumerate(int(shift) + bits for shift in self._shifts):
            turned = np.sort(_turned(hashes, shift))
            first = band * len(hashes)
            self._hashes[first : first + len(hashes)] = _turned(turned, HASH_BITS - shift)
            self._starts[band] = _starts(turned >> np.uint64(HASH_BITS - bits), bits) + first
        flips = [0] + [1 << bit for bit in range(bits)] * (distance > 0)
        self._flips = np.array(flips, np.uint64)
        self._rows = np.arange(bands)[:, None]

    @property
    def nbytes(self) -> int:
        return self._hashes.nbytes + self._starts.nbytes

    def close_to(self, value: int) -> bool:
        """Whether a member differs from `value` in at most `distance` bits."""
        asked = np.uint64(value)
        buckets = ((asked >> self._shifts) & self._mask)[:, None] ^ self._flips
        first = self._starts[self._rows, buckets].ravel().astype(np.int64)
        counts = self._starts[self._rows, buckets + np.uint64(1)].ravel() - first
        ends = counts.cumsum()
        places = np.repeat(first - ends + counts, counts) + np.arange(ends[-1])
        bits = np.bitwise_count(self._hashes[places] ^ asked)
        return bool((bits <= self._distance).any())


def _turned(hashes: npt.NDArray[np.uint64], bits: int) -> npt.NDArray[np.uint64]:
    """Rotated right by `bits`."""
    right, left = np.uint64(bits % HASH_BITS), np.uint64(-bits % HASH_BITS)
    return hashes if right == 0 else (hashes >> right) | (hashes << left)


def _bits(count: int) -> int:
    """How many first bits tell buckets apart, so that each has a few members."""
    return max(1, (count // _MEMBERS_A_BUCKET).bit_length())


def _starts(buckets: npt.NDArray[np.uint64], bits: int) -> npt.NDArray[Any]:
    """Where each bucket starts among sorted members, [2 ** bits + 1]; the last is their number."""
    found = np.searchsorted(buckets, np.arange((1 << bits) + 1, dtype=np.uint64))
    return found.astype(np.uint32)
