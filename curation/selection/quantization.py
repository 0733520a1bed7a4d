"""Dataset Quantization (Zhou et al. 2023, arXiv:2308.10524) on stored vectors.

The rows are put into bins, one bin after the other, by a submodular gain: what is like the rows
that remain and unlike those already in the bin. A bin is thus diverse, the first ones the most
representative; the same share is drawn from every bin. The greedy choice needs all pairs, so it is
made within cells of a bounded size. Dropping patches, the paper's last step: `curation/patches.py`.
"""

import tempfile
from dataclasses import replace
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation import kmeans
from curation.draws import Floats, Words, blocks, draws
from curation.selection import cells
from curation.selection.cells import Space
from curation.selection.choice import Cells, Choice, Ints, lowest, rates, tally
from curation.selection.rows import Rows
from curation.selection.settings import QuantizationSettings
from infra.digests import generator

DIGITS = 9
MOST_CELLS = 10_000  # found by k-means; what is larger than a cell may be is cut by the draws


def select(settings: QuantizationSettings, rows: Rows, key: tuple[object, ...]) -> Choice:
    """As many rows as the target says, the same share of every bin of every cell."""
    sample = cells.sample_vectors(rows, settings.vectors, settings.sample, key)
    wanted = min(max(-(-len(rows) // settings.cell_size), 1), MOST_CELLS)
    centroids = kmeans.fit(sample, wanted, key, settings.iterations)
    drawn = draws(rows.uids, *key)
    placed = cells.place(rows, settings.vectors, centroids)
    groups = split(placed.cells, drawn, settings.cell_size)
    del placed
    count = int(groups.max(initial=-1)) + 1
    binned = _bin_all(rows, settings, groups, drawn)
    sizes = tally(binned, int(binned.max(initial=-1)) + 1)
    target = settings.size(int(sizes.sum()))
    quotas = proportional(sizes, target, generator(*key, "remainder").random(len(sizes)))
    choice = cells.choice(
        settings.missing,
        Space(binned, len(sizes), np.empty(0)),
        rates(quotas, sizes, binned),
        lowest(binned, quotas, drawn),
        figures={"target": target, "groups": count},
    )
    return _named(choice, settings.bins)


def split(labels: Cells, drawn: Words, most: int) -> Cells:
    """Cells of at most `most` rows: larger ones are cut by the draws into equal parts. [n]"""
    order = np.lexsort((drawn, labels))
    sizes = tally(labels, int(labels.max(initial=-1)) + 1)
    groups = np.full(len(labels), -1, np.int32)
    low, count = len(labels) - int(sizes.sum()), 0
    for size in sizes[sizes > 0].tolist():
        parts = -(-size // most)
        groups[order[low : low + size]] = count + np.arange(size) % parts
        low, count = low + size, count + parts
    return groups


def _bin_all(rows: Rows, settings: QuantizationSettings, groups: Cells, drawn: Words) -> Cells:
    """The bin of every row, group * bins + bin; -1 where it has no vector.

    The vectors are laid out group by group in a temporary file, and read back a group at a time.
    """
    binned = np.full(len(rows), -1, np.int32)
    order = np.lexsort((drawn, groups))
    sizes = tally(groups, int(groups.max(initial=-1)) + 1)
    with tempfile.TemporaryFile(prefix="sluice-") as file:
        width = _lay_out(rows, settings.vectors, order, file)
        low = len(rows) - int(sizes.sum())
        file.seek(2 * width * low)
        for group, size in enumerate(sizes.tolist()):
            vectors = np.fromfile(file, np.float16, size * width).reshape(size, width)
            found = bins(vectors.astype(np.float64), settings.bins, settings.weight)
            binned[order[low : low + size]] = group * settings.bins + found
            low += size
    return binned


def _lay_out(rows: Rows, name: str, order: Ints, file: IO[bytes]) -> int:
    """The rows' vectors into `file`, float16, in the given order; returns their dimensions."""
    place = np.empty(len(order), np.int64)
    for part in blocks(len(order)):
        place[order[part]] = np.arange(part.start, part.stop)
    start = width = 0
    for vectors in rows.vector_pieces(name):
        width = vectors.shape[1]
        file.truncate(2 * width * len(rows))
        # Mapped for one shard at a time: what is mapped counts as memory of this process.
        mapped = np.memmap(file, np.float16, "r+", shape=(len(rows), width))
        mapped[place[start : start + len(vectors)]] = vectors
        start += len(vectors)
    return width


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
