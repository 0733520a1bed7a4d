"""Names made from content: digests of settings, and random numbers keyed by them."""

import hashlib
import json
from typing import Any

import numpy as np

DIGEST_LENGTH = 16  # hex characters: 64 bits, enough for the versions of one store
CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return CANONICAL.encode(value).encode()


def digest(value: Any) -> str:
    """The first 16 hex characters of SHA-256 over the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()[:DIGEST_LENGTH]


def generator(*key: Any) -> np.random.Generator:
    """A counter-based generator (Philox) keyed by run seed, stage, uid and the like.

    The same key gives the same numbers in any process, order or number of workers.
    """
    words = hashlib.sha256(canonical_json([str(part) for part in key])).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(words[:16], dtype=np.uint64)))
