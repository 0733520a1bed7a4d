"""What a search found: a table, and in a notebook a grid of thumbnails."""
# pyarrow has no type stubs:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from indexes.grid import STYLE, figure, grid, short
from indexes.pictures import decode, originals, thumbnail
from infra.errors import SluiceError

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from indexes.search import Index

SHOWN = 24  # thumbnails in one grid


@dataclass(frozen=True)
class Hits:
    """The rows found for one query, best first.

    `table` has columns rank (from 1), similarity (inner product of unit vectors), then those of
    the index: id, uid, caption, url, width, height, ..., and every score of the version.
    """

    index: "Index"
    query: str  # the question, for people
    table: pa.Table

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
            lines.append(f"{hit['rank']:4d}  {hit['similarity']:.3f}  {hit['uid'][:8]}  {caption}")
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
                    f"{hit['similarity']:.3f}",
                    hit["caption"] or "",
                )
                for hit in shown
            ),
        )
