"""The rows that are still in, and what may be read about them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation import columns, sql
from curation.draws import Bools, Words
from curation.rules import column_names
from curation.selection.choice import Ints
from curation.selection.settings import DOMAIN
from infra.dataset import ROW_BITS, Dataset, of_shard

# The host of a URL, lower case, without user, port and "www."; '' where there is none.
DOMAIN_SQL = (
    "regexp_extract(lower(rows.url), '^[a-z][a-z0-9+.-]*://(?:[^/?#@]*@)?(?:www[.])?([^/:?#]+)', 1)"
)


@dataclass(frozen=True)
class Rows:
    """Rows of a dataset by id, ascending, with their uids [n, 2]; columns are read when asked."""

    dataset: Dataset
    folders: Mapping[str, str]
    ids: Ints
    uids: Words

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, chosen: Bools) -> "Rows":
        if chosen.all():
            return self
        return replace(self, ids=self.ids[chosen], uids=self.uids[chosen])

    def texts(self, owner: str, expression: str) -> Iterator[pa.ChunkedArray]:
        """An expression as strings, null where it is NULL; piece by piece, in order."""
        return self._pieces(owner, expression, "VARCHAR")

    def numbers(self, owner: str, expression: str) -> npt.NDArray[np.float64]:
        """An expression as float64 [n]; NaN where it is NULL."""
        found, start = np.empty(len(self)), 0
        for piece in self._pieces(owner, expression, "DOUBLE"):
            found[start : start + len(piece)] = piece.to_numpy()
            start += len(piece)
        return found

    def vector_pieces(self, name: str) -> Iterator[npt.NDArray[np.float16]]:
        """The vectors SCORER/VECTOR, float16 [rows, dim], all zero where there is none.

        A piece for each shard, in order.
        """
        scorer, _, vector = name.partition("/")
        folder = columns.score_folder(self.folders, scorer, "curate.selection")
        for shard, rows in self._by_shard():
            yield columns.read_vectors(self.dataset.url, folder, vector, shard)[rows]

    def _pieces(self, owner: str, expression: str, kind: str) -> Iterator[pa.ChunkedArray]:
        shards = [shard for shard, _ in self._by_shard()]
        if not shards:
            return
        schemas = columns.column_schemas(self.dataset.url, self.folders, shards[0])
        parsed = parse(owner, expression, column_names(schemas))
        query = f"SELECT CAST({parsed.sql} AS {kind}) AS x FROM t"
        for batch, table in columns.read_batches(
            self.dataset.url, self.folders, shards, parsed.columns
        ):
            _, rows = batch.find(self.ids)
            yield sql.query(query, table.take(pa.array(rows)), [parsed])["x"]

    def _by_shard(self) -> Iterator[tuple[int, Ints]]:
        for shard in sorted(self.dataset.shards):
            rows = of_shard(self.ids, shard)
            if rows.start < rows.stop:
                yield shard, self.ids[rows] & (1 << ROW_BITS) - 1


def parse(owner: str, expression: str, names: list[str]) -> sql.Expression:
    """An expression of the plan; `domain` stands for the host of rows.url."""
    return sql.parse(owner, DOMAIN_SQL if expression == DOMAIN else expression, names)
