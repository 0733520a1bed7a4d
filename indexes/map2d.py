"""A two-dimensional map of an index's vectors, kept and dropped rows apart; kept in the store.

<store>/<dataset>/<version>/maps/<digest>/map.parquet    one row a point (POINTS)

Near in the map is near in the space; distances between groups, their sizes and the two axes mean
nothing (van der Maaten and Hinton 2008, which t-SNE is from).
"""
# pyarrow and scikit-learn have no type stubs:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from indexes import map2d_picture
from indexes.embeddings import Embedding, vectors_of
from indexes.grid import short
from indexes.map2d_picture import KEPT, Group
from infra import artifacts
from infra.artifacts import Part, Spec
from infra.dataset import ROW_BITS, Dataset, index_id, of_shard, read_table, write_table
from infra.digests import generator
from infra.errors import SluiceError
from infra.filesystem import join

if TYPE_CHECKING:
    import pandas as pd

    from indexes.search import Index

STAGE = "indexes.map2d"
CODE = 1
FILE = "map.parquet"
SHARDS = 256  # that a sample is drawn from at most
SPARE = 1.5  # rows drawn for each point wanted, since some have no vector
LEAST, MOST = 5, 20_000  # points; 10,000 take about half a minute
COMPONENTS, PERPLEXITY, STEPS = 50, 30, 500

POINTS = pa.schema(
    [
        ("id", pa.int64()),
        ("x", pa.float32()),
        ("y", pa.float32()),
        ("uid", pa.string()),
        ("kept", pa.bool_()),
        ("reason", pa.string()),  # why it was dropped; null where kept
        ("caption", pa.string()),
    ]
)

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Map2D:
    """Rows as points of a plane; in a notebook a picture, kept and each reason in a colour.

    `table` has a row for each point: id, x, y, uid, kept, reason (null where kept), caption.
    """

    title: str
    table: pa.Table

    def __len__(self) -> int:
        return len(self.table)

    def to_pandas(self) -> "pd.DataFrame":
        """The points as a pandas frame."""
        return self.table.to_pandas()

    def save(self, path: str | Path) -> None:
        """Write the picture: .svg, or .png with a white ground."""
        target = Path(path)
        match target.suffix.lower():
            case ".svg":
                svg = map2d_picture.svg(self.title, self._groups(), standalone=True)
                target.write_text(svg, encoding="utf-8")
            case ".png":
                map2d_picture.draw(self.title, self._groups()).save(target)
            case other:
                raise SluiceError(
                    f"{target} is neither PNG nor SVG: {other!r}", "name it .png or .svg"
                )

    def _groups(self) -> list[Group]:
        """The points by what became of them: kept first, then reasons, most frequent first."""
        columns = self.table.to_pydict()
        places = zip(columns["x"], columns["y"], strict=True)
        titles = zip(columns["uid"], columns["caption"], strict=True)
        groups: dict[str, Group] = {KEPT: Group(KEPT, [], [])}
        for place, title, kept, reason in zip(
            places, titles, columns["kept"], columns["reason"], strict=True
        ):
            name = KEPT if kept else short(reason or "dropped", 40)
            group = groups.setdefault(name, Group(name, [], []))
            group.places.append(place)
            group.titles.append(title)
        first, *others = groups.values()
        others.sort(key=lambda group: (-len(group.places), group.name))
        return [group for group in (first, *others) if group.places]

    def __repr__(self) -> str:
        told = ", ".join(f"{len(group.places)} {group.name}" for group in self._groups())
        return f"{self.title}: {told}"

    def _repr_html_(self) -> str:
        return map2d_picture.svg(self.title, self._groups())


def draw_ids(dataset: Dataset, n: int, seed: int) -> Ids:
    """Some rows of a version at random, kept or not, ascending: more than `n`, or all there are.

    Of a version of many shards they come from SHARDS of them.
    """
    rng = generator(seed, STAGE, "rows")
    parts = dataset.artifact.parts
    chosen = np.sort(rng.permutation(len(parts))[:SHARDS]).tolist()
    counts = np.array([parts[place].rows for place in chosen], np.int64)
    total = int(counts.sum())
    places = np.sort(rng.choice(total, min(total, round(n * SPARE)), replace=False))
    ends = np.cumsum(counts)
    which = np.searchsorted(ends, places, side="right")
    shards = np.array([int(parts[place].name) for place in chosen], np.int64)
    return (shards[which] << ROW_BITS) + places - (ends - counts)[which]


def map_of(index: "Index", ids: Ids, n: int, seed: int, title: str) -> Map2D:
    """The map of at most `n` of the rows `ids` that have a vector; found again where it was made.

    A store that cannot be written gets no copy, and a warning says so.
    """
    if n > MOST:
        raise SluiceError(f"a map of {n} points takes too long", f"ask for at most {MOST}")
    dataset, ids = index.dataset, np.unique(ids)
    embedding = vectors_of(dataset, str(index.figures["embedding"]))
    rows = hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()
    settings = {"rows": rows, "n": n, "embedding": embedding.name, "seed": seed}
    parents = (dataset.artifact.digest, embedding.scores.digest)
    spec = Spec("map", STAGE, settings, parents, CODE)
    url = join(dataset.url, "maps", spec.digest)
    made = artifacts.load(url)
    if made is not None:
        return Map2D(title, read_table(made.path(FILE)))
    table = map_table(dataset, embedding, ids, n, seed)
    try:
        file = write_table(url, FILE, table)
        part = Part("map", (file,), len(ids), len(table), {"not_shown": len(ids) - len(table)})
        artifacts.record_part(url, part, 0.0, 0.0)
        artifacts.commit(url, spec)
    except SluiceError as error:
        warnings.warn(f"the map is not kept in the store: {error}", stacklevel=2)
    return Map2D(title, table)


def map_table(dataset: Dataset, embedding: Embedding, ids: Ids, n: int, seed: int) -> pa.Table:
    """Points (POINTS) of at most `n` of the rows `ids` (ascending) that have a vector."""
    vectors = embedding.take(ids)
    there = np.flatnonzero(vectors.any(axis=1))
    order = generator(seed, STAGE, "points").permutation(len(there))
    there = there[np.sort(order[:n])]
    if len(there) < LEAST:
        raise SluiceError(
            f"{len(there)} vectors make no map", f"choose {LEAST} or more rows that have one"
        )
    shown, place = ids[there], project(vectors[there].astype(np.float32), seed)
    facts = _facts(dataset, shown)
    kept = [status == "ok" for status in facts["status"].to_pylist()]
    columns = [shown, place[:, 0], place[:, 1], facts["uid"], kept, facts["reason"]]
    return pa.table([*columns, facts["caption"]], schema=POINTS)


def _facts(dataset: Dataset, ids: Ids) -> pa.Table:
    columns = ["uid", "status", "reason", "caption"]
    found = [
        dataset.rows(shard, columns).take(pa.array(ids[of_shard(ids, shard)] - index_id(shard, 0)))
        for shard in np.unique(ids >> ROW_BITS).tolist()
    ]
    return pa.concat_tables(found).combine_chunks()


def project(vectors: Floats, seed: int) -> Floats:
    """Places in a plane, float32 [n, 2], of vectors [n, dimension].

    Principal components, then t-SNE, which starts from the first two; on one thread, so that sums
    have the same order again.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    count, dimension = vectors.shape
    with threadpool_limits(1), np.errstate(invalid="ignore"):  # vectors that are all alike
        components = PCA(min(COMPONENTS, count, dimension), svd_solver="covariance_eigh")
        less: Any = components.fit_transform(vectors)
        start: Any = np.zeros((count, 2), np.float32)
        start[:, : less.shape[1]] = less[:, :2] / (less[:, 0].std() or 1) * 1e-4
        perplexity = min(PERPLEXITY, (count - 1) / 3)
        method = TSNE(2, perplexity=perplexity, max_iter=STEPS, init=start, random_state=seed)
        return method.fit_transform(less).astype(np.float32)
