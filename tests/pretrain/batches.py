"""Batches of noise, as objectives take them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pretrain.data import Batch


def batch(
    count: int,
    first: int = 0,
    *,
    seed: int = 0,
    side: int = 48,
    captions: Sequence[str] = (),
    texts: Sequence[str | None] = (),
    columns: Sequence[Mapping[str, Any]] = (),
) -> Batch:
    """`count` pictures of noise, the positions from `first` on."""
    rng = np.random.default_rng(seed)
    return Batch(
        rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8),
        np.full((count, 2), side, np.float32),
        list(captions) or [f"caption {number}" for number in range(count)],
        np.arange(count),
        np.zeros(count, np.int64),
        first + np.arange(count),
        {},
        texts,
        columns,
    )
