"""Density-based pruning: fewer rows from dense clusters (Abbas et al. 2024, arXiv:2401.04578).

A cluster's complexity is the mean distance of its rows to their centroid times the mean distance
of its centroid to the nearest others; its share of the target is the softmax of that. The quotas
are the closest to these shares that respect the clusters' sizes. Distances are 1 - cosine, which
the paper's temperature is made for.
"""

import numpy as np
import pyarrow as pa

from curation import kmeans
from curation.draws import Floats, blocks, draws
from curation.kmeans import Centroids
from curation.selection import cells
from curation.selection.cells import Space
from curation.selection.choice import Choice, Ints, lowest, rates
from curation.selection.rows import Rows
from curation.selection.settings import DensitySettings

HALVINGS = 100


def select(settings: DensitySettings, rows: Rows, key: tuple[object, ...]) -> Choice:
    """As many rows as the target says, more of them from sparse and lonely clusters."""
    sample = cells.sample_vectors(rows, settings.vectors, settings.sample, key)
    centroids = kmeans.fit(sample, settings.clusters, key, settings.iterations)
    space = cells.place(rows, settings.vectors, centroids, distances=True)
    sizes = space.sizes()
    found = complexity(space, centroids, settings.neighbours)
    target = settings.size(int(sizes.sum()))
    quotas = share(sizes, softmax(found / settings.temperature, sizes > 0), target)
    drawn = draws(rows.uids, *key)
    if settings.leaves == "farthest":
        selected = lowest(space.cells, quotas, -space.distances, drawn)
        probability = selected.astype(np.float64)
    else:
        selected = lowest(space.cells, quotas, drawn)
        probability = rates(quotas, sizes, space.cells)
    columns = {"rows": sizes, "taken": quotas, "complexity": found}
    state = pa.table(columns | {"centroid": cells.lists(centroids)})
    return cells.choice(
        settings.missing, space, probability, selected, state=state, figures={"target": target}
    )


def complexity(space: Space, centroids: Centroids, neighbours: int) -> Floats:
    """Mean distance inside each cluster times that to the nearest other centroids: [clusters].

    The rows are unit vectors x, so that |x - m|^2 = 1 + |m|^2 - 2 |m| cos(x, m).
    """
    exact = centroids.astype(np.float64)
    lengths = np.maximum(np.linalg.norm(exact, axis=1), 1e-12)
    squared = _total(space) / np.maximum(space.sizes(), 1)
    inside = 1 - np.clip((1 + lengths**2 - squared) / (2 * lengths), -1, 1)
    unit = exact / lengths[:, None]
    between = np.ones(space.count)
    for cell in range(space.count):
        away = np.delete(1 - unit @ unit[cell], cell)
        if len(away):
            between[cell] = np.sort(away)[:neighbours].mean()
    return inside * between


def _total(space: Space) -> Floats:
    """The sum of the squared distances in each cell, one row after the other: [clusters]."""
    total = np.zeros(space.count)
    for part in blocks(len(space.cells)):
        cell, away = space.cells[part], space.distances[part]
        np.add.at(total, cell[cell >= 0], away[cell >= 0])
    return total


def softmax(values: Floats, there: np.ndarray) -> Floats:
    """Shares that sum to 1 over the clusters that are there, 0 for the others."""
    top = values[there].max(initial=-np.inf)
    powers = np.where(there, np.exp(np.minimum(values - top, 0)), 0.0)
    return powers / max(powers.sum(), 1e-300)


def share(sizes: Ints, wanted: Floats, target: int) -> Ints:
    """Whole quotas that sum to the target: the paper's quadratic program.

    Minimises sum (N_j - P_j N)^2 with sum N_j = N and 1 <= N_j <= size_j: the solution is
    P_j N + c, cut to its bounds, for one c. Where N is less than the number of clusters, the
    lower bound is 0.
    """
    target = min(target, int(sizes.sum()))
    least = np.minimum(sizes, 1) if target >= (sizes > 0).sum() else np.zeros_like(sizes)
    low, high = -float(target) - 1, float(sizes.max(initial=0)) + 1
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        total = np.clip(wanted * target + middle, least, sizes).sum()
        low, high = (middle, high) if total < target else (low, middle)
    ideal = np.clip(wanted * target + high, least, sizes)
    quotas = np.floor(ideal + 1e-9).astype(np.int64)
    order = np.argsort(quotas - ideal, kind="stable")
    open_ = order[quotas[order] < sizes[order]]
    quotas[open_[: target - int(quotas.sum())]] += 1
    return quotas
