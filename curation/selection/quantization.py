"""Dataset Quantization (Zhou et al. 2023, arXiv:2308.10524) on stored vectors.

The rows are put into bins, one bin after the other, by a submodular gain: what is like the rows
that remain and unlike those already in the bin. A bin is thus diverse, the first ones the most
representative; the same share is drawn from every bin. The greedy choice needs all pairs, so it is
made within cells of a bounded size. The paper's dropping of image patches is not part of this.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation import kmeans
from curation.selection import cells
from curation.selection.cells import Space
from curation.selection.draws import Choice, Floats, Ints, Words, draws, lowest, rates
from curation.selection.rows import Rows
from curation.selection.settings import QuantizationSettings
from infra.digests import generator

DIGITS = 9


def select(settings: QuantizationSettings, rows: Rows, key: tuple[object, ...]) -> Choice:
    """As many rows as the target says, the same share of every bin of every cell."""
    sample = cells.sample_vectors(rows, settings.vectors, settings.sample, key)
    wanted = -(-len(rows) // settings.cell_size)
    centroids = kmeans.fit(sample, max(wanted, 1), key, settings.iterations)
    space = cells.place(rows, settings.vectors, centroids)
    drawn = draws(rows.uids, *key)
    groups = split(space.cells, drawn, settings.cell_size)
    binned = _bin_all(rows, settings, groups, drawn)
    sizes = np.bincount(binned[binned >= 0], minlength=int(binned.max(initial=-1)) + 1)
    target = settings.size(int(sizes.sum()))
    quotas = proportional(sizes, target, generator(*key, "remainder").random(len(sizes)))
    choice = cells.choice(
        settings.missing,
        Space(binned, space.distances, len(sizes)),
        rates(quotas, sizes, binned),
        lowest(binned, quotas, drawn),
        figures={"target": target, "groups": int(groups.max(initial=-1)) + 1},
    )
    return _named(choice, settings.bins)


def split(labels: Ints, drawn: Words, most: int) -> Ints:
    """Cells of at most `most` rows: larger ones are cut by the draws into equal parts. [n]"""
    order = np.lexsort((drawn, labels))
    order = order[labels[order] >= 0]
    ordered = labels[order]
    groups = np.full(len(labels), -1)
    count = 0
    for cell in np.unique(ordered).tolist():
        low, high = np.searchsorted(ordered, [cell, cell + 1]).tolist()
        parts = -(-(high - low) // most)
        groups[order[low:high]] = count + np.arange(high - low) % parts
        count += parts
    return groups


def _bin_all(rows: Rows, settings: QuantizationSettings, groups: Ints, drawn: Words) -> Ints:
    """The bin of every row, group * bins + bin; -1 where it has no vector."""
    vectors = rows.vectors(settings.vectors)
    binned = np.full(len(rows), -1)
    order = np.lexsort((drawn, groups))
    order = order[groups[order] >= 0]
    ends = np.cumsum(np.bincount(groups[order])) if len(order) else np.empty(0, np.int64)
    for group, members in enumerate(np.split(order, ends[:-1]) if len(ends) else []):
        found = bins(vectors[members].astype(np.float64), settings.bins, settings.weight)
        binned[members] = group * settings.bins + found
    return binned


def bins(vectors: Floats, count: int, weight: float) -> Ints:
    """Graph cut, greedily: the bin of each of n vectors [n, d], int64 [n].

    gain(x) = weight * sum of sim(i, x) over the rows that no earlier bin took
    - 2 * sum of sim(s, x) over the bin so far. Ties go to the row that comes first.
    """
    rows = len(vectors)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    similarity = unit @ unit.T
    found = np.full(rows, count - 1)
    free = np.ones(rows, bool)
    for number in range(count):
        gain = weight * (similarity @ free.astype(np.float64))
        gain[~free] = -np.inf
        for _ in range(rows * (number + 1) // count - rows * number // count):
            best = int(gain.round(DIGITS).argmax())  # sums of any order tie alike
            found[best], free[best] = number, False
            gain -= 2 * similarity[best]
            gain[best] = -np.inf
    return found


def proportional(sizes: Ints, target: int, drawn: npt.NDArray[np.float64]) -> Ints:
    """The same share of each bin, in whole rows: the remainder goes by the draws. [bins]"""
    total = int(sizes.sum())
    if target >= total:
        return sizes.astype(np.int64)
    quotas = sizes * target // total
    order = np.argsort(drawn, kind="stable")
    while (left := target - int(quotas.sum())) > 0:
        quotas[order[quotas[order] < sizes[order]][:left]] += 1
    return quotas


def _named(choice: Choice, count: int) -> Choice:
    """Cells called GROUP/BIN."""
    places = range(len(choice.names))
    names = pa.array([f"{place // count}/{place % count}" for place in places], pa.string())
    return replace(choice, names=names)
