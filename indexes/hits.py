"""What a search found: a table, and in a notebook a grid of thumbnails."""
# pyarrow has no type stubs:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from indexes.grid import STYLE, figure, grid, short
from indexes.pictures import decode, originals, thumbnail
from infra.errors import SluiceError

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl  # pyright: ignore[reportMissingImports]
    from PIL import Image

    from indexes.map2d import Map2D
    from indexes.search import Index
    from infra.dataset import Dataset

SHOWN = 24  # thumbnails in one grid
NEIGHBOURS = pa.schema(
    [
        ("uid", pa.string()),
        ("rank", pa.int32()),
        ("neighbour", pa.string()),
        ("similarity", pa.float32()),
    ]
)

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Asked:
    """A question in words, its condition, and how the search went about it; for people."""

    words: str
    where: str | None = None
    how: str = ""

    def __str__(self) -> str:
        return self.words if self.where is None else f"{self.words} where {self.where}"


@dataclass(frozen=True)
class Hits:
    """The rows found for one query, best first.

    `table` has columns rank (from 1), similarity (inner product of unit vectors; null in a random
    sample), then those of the index: id, uid, caption, url, width, height, ..., and every score of
    the version.
    """

    index: "Index"
    asked: Asked
    table: pa.Table

    @property
    def query(self) -> str:
        """The question, for people."""
        return str(self.asked)

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The hits as dicts, best first."""
        return iter(self.table.to_pylist())

    def __getitem__(self, rank: int) -> dict[str, Any]:
        """One hit as a dict; 0 is the best."""
        return self.table.slice(range(len(self))[rank], 1).to_pylist()[0]

    def to_arrow(self) -> pa.Table:
        """The hits as an Arrow table."""
        return self.table

    def to_pandas(self) -> "pd.DataFrame":
        """The hits as a pandas frame."""
        return self.table.to_pandas()

    def to_polars(self) -> "pl.DataFrame":
        """The hits as a Polars frame; Polars is not among Sluice's dependencies."""
        try:
            import polars  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise SluiceError("polars is not installed", "pip install polars") from error
        return polars.from_arrow(self.table)  # type: ignore[return-value]

    def explain(self) -> str:
        """How these hits were found: the index, what was looked into, its measured recall."""
        seen = self.table["similarity"].drop_null().to_numpy()
        spread = f", similarity {seen[0]:.4f} to {seen[-1]:.4f}" if len(seen) else ""
        return (
            f"{len(self)} hits for {self.query}{spread}\n{self.asked.how}\n"
            f"{self.index.figures['embedding']} of {self.index.name}, "
            f"{self.index.figures['bytes_per_vector']} bytes a vector"
        )

    def dedup(self, threshold: float = 0.95) -> "Hits":
        """The hits without those that are as similar as `threshold` to a better one that stays."""
        if not 0 < threshold <= 1:
            raise SluiceError(f"threshold {threshold} is no cosine", "use one from 0 to 1")
        vectors = self.index.stored(self.table["id"].to_numpy())
        stays: list[int] = []
        for place in range(len(self)):
            if not len(stays) or (vectors[stays] @ vectors[place]).max() < threshold:
                stays.append(place)
        asked = replace(self.asked, words=f"{self.asked.words}, one of those alike")
        table = self.table.take(pa.array(stays, pa.int64()))
        ranks = pa.array(range(1, len(stays) + 1), pa.int32())
        return Hits(self.index, asked, table.set_column(0, "rank", ranks))

    def map2d(self, seed: int = 0) -> "Map2D":
        """A two-dimensional map of the hits' vectors; see `Index.map2d`."""
        from indexes.map2d import map_of

        ids = self.table["id"].to_numpy()
        title = f"{short(self.query, 60)} in {self.index.name}"
        return map_of(self.index, ids, len(ids), seed, title)

    def save_as(self, name: str) -> "Dataset":
        """A dataset version NAME of these rows, in the same store; pretraining takes it as it is.

        >>> idx.search("a red bicycle", k=1000).save_as("bicycles")
        """
        from indexes.subset import make_subset

        ids = self.table["id"].to_numpy()
        embedding = str(self.index.figures["embedding"])
        return make_subset(self.index.dataset, ids, name, self.explain(), embedding)

    def image(self, rank: int) -> "Image.Image":
        """The picture of a hit, whole, as it lies in its shard; 0 is the best."""
        hit = self[rank]
        data = originals(self.index.dataset.url, [hit["id"]]).get(hit["id"])
        if data is None:
            raise SluiceError(f"{hit['uid']} has no picture in {self.index.dataset.url}", "")
        return decode(data, hit["uid"])

    def more_like(self, uid: str | int = 0, k: int | None = None) -> "Hits":
        """What is most similar to one of the hits: its uid, or its place (0 is the best)."""
        if isinstance(uid, int):
            uid = str(self[uid]["uid"])
        return self.index.search(uid=uid, k=k or max(len(self), 1))

    def facets(self, column: str, top: int = 20) -> dict[Any, int]:
        """How many hits have each value of a column, most frequent first."""
        if column not in self.table.column_names:
            raise SluiceError(
                f"there is no column {column!r}", f"there is {', '.join(self.table.column_names)}"
            )
        counts: Counter[Any] = Counter(self.table.column(column).to_pylist())
        return dict(sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))[:top])

    @cached_property
    def _thumbnails(self) -> dict[int, str | None]:
        ids: list[int] = self.table.column("id").to_pylist()[:SHOWN]
        found = originals(self.index.dataset.url, ids)
        return {key: thumbnail(data) for key, data in found.items()}

    def __repr__(self) -> str:
        lines = [f"{len(self)} hits for {self.query} in {self.index.name}"]
        for hit in self.table.slice(0, 10).to_pylist():
            caption = short(hit["caption"] or "", 70)
            lines.append(
                f"{hit['rank']:4d}  {_number(hit['similarity'])}  {hit['uid'][:8]}  {caption}"
            )
        if len(self) > 10:
            lines.append(f"      ... {len(self) - 10} more: .to_pandas()")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """A grid of thumbnails."""
        more = f", the first {SHOWN} shown" if len(self) > SHOWN else ""
        shown = self.table.slice(0, SHOWN).to_pylist()
        return STYLE + grid(
            f"{len(self)} hits for {self.query}{more}",
            (
                figure(
                    self._thumbnails.get(hit["id"]),
                    hit["uid"],
                    _number(hit["similarity"]),
                    hit["caption"] or "",
                )
                for hit in shown
            ),
        )


def neighbour_table(
    uids: Sequence[str], found: Sequence[tuple[Floats, Ids]], neighbours: pa.ChunkedArray
) -> pa.Table:
    """NEIGHBOURS of what was found for each uid; `neighbours` has the uids of all, in order."""
    counts = [len(rows) for _, rows in found]
    ranks = [np.arange(1, count + 1) for count in counts]
    columns = [
        np.repeat(np.array(uids, object), counts),
        np.concatenate([np.empty(0, int), *ranks]),
        neighbours,
        np.concatenate([np.empty(0, np.float32), *(similarity for similarity, _ in found)]),
    ]
    return pa.table(columns, schema=NEIGHBOURS)


def _number(similarity: float | None) -> str:
    return "" if similarity is None else f"{similarity:.3f}"
