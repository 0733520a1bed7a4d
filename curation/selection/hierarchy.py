"""Hierarchical k-means with balanced sampling from the top (Vo et al. 2024, arXiv:2405.15613).

The first level clusters the rows' vectors, each further one the centroids of the one below.
Sampling goes from the top: a target is spread evenly over the children of a cluster, as far as
they reach, and so on down to the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from curation import kmeans
from curation.draws import Bools, Floats, draws
from curation.kmeans import Centroids, Points
from curation.selection import cells
from curation.selection.choice import Choice, Ints, lowest, rates
from curation.selection.rows import Rows
from curation.selection.settings import ClusterSettings
from infra.digests import generator

RESAMPLED = 0.5  # of the mean size of a cluster: what of it takes part in a resampling step


@dataclass(frozen=True)
class Hierarchy:
    """centroids: by level, the finest first. parents: of each cluster but those of the top."""

    centroids: Sequence[Centroids]
    parents: Sequence[Ints]


def select(
    settings: ClusterSettings,
    rows: Rows,
    key: tuple[object, ...],
    before: pa.Table | None = None,
) -> Choice:
    """As many rows as the target says, balanced over clusters of clusters.

    before: the state of an older plan; its clusters are used as they are, and rows are taken so
    that old and new ones together are balanced.
    """
    if before:
        hierarchy, taken = read_state(before)
    else:
        sample = cells.sample_vectors(rows, settings.vectors, settings.sample, key)
        hierarchy = fit(sample, settings.levels, key, settings.resampling, settings.iterations)
        taken = [np.zeros(len(level), np.int64) for level in hierarchy.centroids]
    nearest = settings.leaves == "closest"
    space = cells.place(rows, settings.vectors, hierarchy.centroids[0], distances=nearest)
    sizes = space.sizes()
    target = settings.size(int(sizes.sum()))
    by_level = spread(sizes, hierarchy.parents, target, key, taken)
    quotas = by_level[0]
    drawn = draws(rows.uids, *key)
    if nearest:
        selected = lowest(space.cells, quotas, space.distances, drawn)
        probability = selected.astype(np.float64)
    else:
        selected = lowest(space.cells, quotas, drawn)
        probability = rates(quotas, sizes, space.cells)
    together = [old + new for old, new in zip(taken, by_level, strict=True)]
    return cells.choice(
        settings.missing,
        space,
        probability,
        selected,
        state=_state(hierarchy, together),
        figures={"levels": [len(level) for level in hierarchy.centroids], "target": target},
    )


def fit(
    points: Points, levels: Sequence[int], key: tuple[object, ...], resampling: int, iterations: int
) -> Hierarchy:
    """Cluster points [n, d], then the centroids, and so on.

    A level above the first is resampled `resampling` times: k-means anew on those of its points
    that are closest to their centroids, so many of each cluster, then all of them assigned anew.
    The first is not, as in the paper's configuration for the web.
    """
    centroids: list[Centroids] = []
    parents: list[Ints] = []
    for level, k in enumerate(levels):
        found = kmeans.fit(points, k, (*key, level), iterations)
        for step in range(resampling if level else 0):
            core = closest(*kmeans.assign(points, found), round(RESAMPLED * len(points) / k))
            found = kmeans.fit(points[core], k, (*key, level, step), iterations)
        if level:
            parents.append(kmeans.assign(points, found)[0])
        centroids.append(found)
        points = found
    return Hierarchy(centroids, parents)


def closest(labels: Ints, distances: Floats, count: int) -> Bools:
    """The `count` points (one at least) of each cluster that are closest to its centroid."""
    quotas = np.full(int(labels.max(initial=-1)) + 1, max(count, 1))
    return lowest(labels, quotas, distances)


def spread(
    sizes: Ints,
    parents: Sequence[Ints],
    target: int,
    key: tuple[object, ...],
    taken: Sequence[Ints],
) -> list[Ints]:
    """How many rows to take of each cluster, by level, the finest first; each sums to the target.

    sizes: rows of each cluster of the finest level; not more than their sum can be taken.
    taken: by level, rows of each cluster that were taken before.
    """
    by_level = [sizes]
    for level, above in enumerate(parents):
        by_level.append(_sums(by_level[-1], above, len(taken[level + 1])))
    every = np.zeros(len(by_level[-1]), np.int64)
    quotas = np.array([min(target, int(sizes.sum()))])
    found: list[Ints] = []
    for level in reversed(range(len(by_level))):
        above = every if level == len(by_level) - 1 else parents[level]
        drawn = generator(*key, "remainder", level).random(len(by_level[level]))
        quotas = spread_children(by_level[level], above, quotas, drawn, taken[level])
        found.append(quotas)
    return found[::-1]


def spread_children(sizes: Ints, parents: Ints, quotas: Ints, drawn: Floats, taken: Ints) -> Ints:
    """Spread each parent's quota over its children. sizes, parents, drawn, taken: [children]."""
    found = np.zeros(len(sizes), np.int64)
    order = np.argsort(parents, kind="stable")
    ends = np.cumsum(np.bincount(parents, minlength=len(quotas)))
    families = np.split(order, ends)[: len(quotas)]
    for own, quota in zip(families, quotas.tolist(), strict=True):
        found[own] = fill(sizes[own], quota, drawn[own], taken[own])
    return found


def fill(sizes: Ints, target: int, drawn: Floats, taken: Ints) -> Ints:
    """Evenly as far as the sizes reach, counting what was taken of each child before.

    The largest cut c at which min(c - taken, sizes), not below 0, sums to at most the target; the
    remainder goes, one each, to children that can give more, those with the lowest draws.
    """
    if target >= sizes.sum():
        return sizes.astype(np.int64)
    low, high = 0, int((sizes + taken).max(initial=0))
    while high - low > 1:
        middle = (low + high) // 2
        fits = np.clip(middle - taken, 0, sizes).sum() <= target
        low, high = (middle, high) if fits else (low, middle)
    quotas = np.clip(low - taken, 0, sizes)
    larger = np.flatnonzero(np.clip(low + 1 - taken, 0, sizes) > quotas)
    more = larger[np.argsort(drawn[larger], kind="stable")][: target - int(quotas.sum())]
    quotas[more] += 1
    return quotas


def _sums(sizes: Ints, parents: Ints, count: int) -> Ints:
    """The sizes of `count` parents."""
    return np.bincount(parents, sizes, count).astype(np.int64)


def _state(hierarchy: Hierarchy, taken: Sequence[Ints]) -> pa.Table:
    """A row per cluster, level by level, in order: level, parent, rows taken, centroid."""
    tables: list[pa.Table] = []
    for level, centroids in enumerate(hierarchy.centroids):
        last = level == len(hierarchy.parents)
        above = np.full(len(centroids), -1) if last else hierarchy.parents[level]
        columns = {
            "level": np.full(len(centroids), level, np.int32),
            "parent": above.astype(np.int32),
            "taken": taken[level],
            "centroid": cells.lists(centroids),
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def read_state(state: pa.Table) -> tuple[Hierarchy, list[Ints]]:
    """The clusters of an older plan, and by level how many rows it took of each."""
    levels = state["level"].to_numpy()
    centroids, parents, taken = [], [], []
    for level in range(int(levels.max()) + 1):
        rows = state.filter(pa.array(levels == level))
        flat = rows["centroid"].combine_chunks().flatten().to_numpy()
        centroids.append(flat.reshape(rows.num_rows, -1))
        parents.append(rows["parent"].to_numpy().astype(np.int64))
        taken.append(rows["taken"].to_numpy())
    return Hierarchy(centroids, parents[:-1]), taken
