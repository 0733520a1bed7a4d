"""What one selector says of the rows that came to it, and choosing so many of each cell."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.draws import Bools, Floats, blocks

Ints = npt.NDArray[np.int64]
Cells = npt.NDArray[np.int32]
Whole = npt.NDArray[np.signedinteger[Any]]


@dataclass(frozen=True)
class Choice:
    """What one selector says about the n rows that came to it; all arrays [n].

    probability: of being selected, before the draw. cells: what a row fell in, -1 for nothing,
    as positions in `names`. unjudged: rows it has nothing to judge by, `why` says what is missing.
    state: what a later plan goes on from. figures: for the manifest, JSON-able.
    """

    probability: Floats
    selected: Bools
    cells: Cells
    names: pa.Array
    unjudged: Bools | None = None
    why: str = ""
    state: pa.Table | None = None
    figures: dict[str, Any] = field(default_factory=dict[str, Any])


def tally(cells: Whole, count: int) -> Ints:
    """The rows of each of `count` cells; -1 is none of them."""
    sizes = np.zeros(count, np.int64)
    for part in blocks(len(cells)):
        sizes += np.bincount(cells[part][cells[part] >= 0], minlength=count)
    return sizes


def lowest(cells: Whole, quotas: Ints, *order: npt.NDArray[Any]) -> Bools:
    """Of each cell the `quotas[cell]` rows that come first by `order`, ties by position.

    cells: [n], -1 for rows of none, which are not chosen; quotas: [cells]; order: each [n], the
    first one first.
    """
    ranked = np.lexsort((*reversed(order), cells))
    sizes = tally(cells, len(quotas))
    starts = np.append(len(cells) - int(sizes.sum()) + np.cumsum(sizes) - sizes, 0)
    most = np.append(quotas, 0)  # the last is cell -1
    chosen = np.zeros(len(cells), bool)
    for part in blocks(len(cells)):
        rows = ranked[part]
        cell = cells[rows]
        chosen[rows] = np.arange(part.start, part.stop) - starts[cell] < most[cell]
    return chosen


def rates(quotas: Ints, sizes: Ints, cells: Whole) -> Floats:
    """The probability of each row where `quotas` of the `sizes` rows of its cell are drawn."""
    rate = np.append(np.minimum(quotas / np.maximum(sizes, 1), 1), 0.0)  # the last is cell -1
    probability = np.empty(len(cells))
    for part in blocks(len(cells)):
        probability[part] = rate[cells[part]]
    return probability
