"""Retrieval: the rows around the vectors of a reference set.

By the nearest rows of each reference vector, by similarity, or by the cells of the rows' space
that are nearest to one of them, as DataComp's image-based filter has it (Gadre et al. 2023,
arXiv:2304.14108).
"""

import io
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation import columns, kmeans
from curation.draws import Bools, Floats, Words, draws
from curation.kmeans import Points
from curation.selection import cells
from curation.selection.cells import Space, present
from curation.selection.choice import Choice
from curation.selection.rows import Rows
from curation.selection.settings import RetrievalSettings
from indexes.neighbours import nearest
from infra import artifacts, filesystem
from infra.dataset import open_dataset
from infra.errors import SluiceError
from infra.filesystem import join


def select(settings: RetrievalSettings, rows: Rows, key: tuple[object, ...]) -> Choice:
    """Every row that is close to the reference set; nothing is drawn."""
    reference = read_reference(settings, rows)
    drawn = draws(rows.uids, *key)
    if settings.cells is not None:
        sample = cells.sample_vectors(rows, settings.vectors, settings.sample, key)
        centroids = kmeans.fit(sample, settings.cells, key, settings.iterations)
        space = cells.place(rows, settings.vectors, centroids)
        wanted = np.unique(kmeans.assign(reference, centroids)[0])
        selected = np.isin(space.cells, wanted)
        figures = {"cells_wanted": len(wanted)}
    else:
        space, best = similarities(rows, settings.vectors, reference)
        figures = {}
        if settings.threshold is not None:
            selected = best >= np.float32(settings.threshold)
        else:
            selected = around(rows, settings.vectors, reference, settings.neighbours or 1, drawn)
    figures |= {"reference": len(reference)}
    probability = selected.astype(np.float64)
    found = cells.choice(settings.missing, space, probability, selected, figures=figures)
    if settings.cells is not None:
        return found
    none = np.full(len(rows), -1, np.int32)
    return replace(found, cells=none, names=pa.array([], pa.string()))


def similarities(rows: Rows, name: str, reference: Points) -> tuple[Space, npt.NDArray[np.float32]]:
    """Which rows have a vector, all in one cell, and their cosine to the closest reference."""
    inside = np.full(len(rows), -1, np.int32)
    best = np.full(len(rows), -np.inf, np.float32)
    start = 0
    for vectors in rows.vector_pieces(name):
        there = np.flatnonzero(present(vectors))
        inside[start + there] = 0
        best[start + there] = nearest(vectors[there], reference, 1)[0][:, 0]
        start += len(vectors)
    return Space(inside, 1, np.empty(0)), best


def around(rows: Rows, name: str, reference: Points, k: int, drawn: Words) -> Bools:
    """Whether a row is among the k nearest of any reference vector, ties by the lower draw."""
    best = np.full((len(reference), k), -np.inf)
    who = np.full((len(reference), k), -1)
    start = 0
    for vectors in rows.vector_pieces(name):
        there = np.flatnonzero(present(vectors))
        there = there[np.argsort(drawn[start + there], kind="stable")]
        if len(there):
            similarity, index = nearest(reference, vectors[there], k)
            best, who = _merge(best, who, similarity, start + there[index], drawn)
        start += len(vectors)
    chosen = np.zeros(len(rows), bool)
    chosen[who[who >= 0]] = True
    return chosen


def _merge(
    best: Floats,
    who: npt.NDArray[np.int64],
    similarity: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
    drawn: Words,
) -> tuple[Floats, npt.NDArray[np.int64]]:
    every = np.concatenate([best, similarity.astype(np.float64)], axis=1)
    whose = np.concatenate([who, rows], axis=1)
    order = np.lexsort((drawn[whose], -every), axis=1)[:, : best.shape[1]]
    return np.take_along_axis(every, order, 1), np.take_along_axis(whose, order, 1)


def read_reference(settings: RetrievalSettings, rows: Rows) -> npt.NDArray[np.float32]:
    """The reference vectors, unit, float32 [m, dim]: a .npy file, or NAME@VERSION of the store."""
    where = settings.reference
    found = _read_npy(where) if where.endswith(".npy") else _read_dataset(settings, rows)
    if found.ndim != 2 or found.dtype.kind != "f":
        raise SluiceError(
            f"{where} holds {found.dtype} of shape {found.shape}", "give floats [rows, dimensions]"
        )
    found = found[present(found)].astype(np.float32)
    if not len(found):
        raise SluiceError(f"{where} holds no vector", "give at least one that is not all zero")
    first = next(iter(rows.vector_pieces(settings.vectors)), None)
    if first is not None and first.shape[1] != found.shape[1]:
        raise SluiceError(
            f"{where} has {found.shape[1]} dimensions, {settings.vectors} has {first.shape[1]}",
            "use vectors of the same encoder",
        )
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _read_npy(url: str) -> npt.NDArray[np.generic]:
    try:
        return np.load(io.BytesIO(filesystem.read_bytes(url)), allow_pickle=False)
    except ValueError as error:
        raise SluiceError(f"{url} is no .npy file of numbers: {error}", "write it again") from error


def _read_dataset(settings: RetrievalSettings, rows: Rows) -> npt.NDArray[np.generic]:
    """The same scorer's vectors of another version; other settings are other vectors."""
    scorer, _, vector = settings.vectors.partition("/")
    ours = columns.score_folder(rows.folders, scorer, "curate.selection")
    wanted = columns.artifact_at(join(rows.dataset.url, "scores", ours)).settings
    other = open_dataset(rows.dataset.url.rsplit("/", 2)[0], settings.reference)
    pattern = join(other.url, "scores", f"{scorer}-*", artifacts.MANIFEST)
    for url in sorted(filesystem.list_files(pattern)):
        folder = url.split("/")[-2]
        if columns.artifact_at(url.rpartition("/")[0]).settings == wanted:
            found = [
                columns.read_vectors(other.url, folder, vector, shard) for shard in other.shards
            ]
            return np.concatenate(found)
    raise SluiceError(
        f"{settings.reference} has no vectors {settings.vectors} made as those of the pool",
        "score it with the same recipe's scorer, or give a .npy file",
    )
