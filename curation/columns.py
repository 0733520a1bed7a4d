"""The score columns of a dataset version, joined by position, and its vectors.

A joined table names its columns `scorer.column`; the columns of rows/ come as `rows.column`.
A score folder is the string `<name>-<digest>` under `<dataset>/scores/`.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from infra import filesystem
from infra.artifacts import Artifact, load
from infra.dataset import ROW_BITS, Dataset, index_id, part_name, read_table
from infra.errors import SluiceError
from infra.filesystem import is_local, join
from infra.threads import ahead

ROWS_NAME = "rows"
FEW = 16  # one row in so many or less is read by itself
BATCH = 1 << 16  # rows of small shards that are looked at as one
AHEAD = 16  # shards of a remote store that are read or written at once,
ROWS_AHEAD = 1 << 17  # fewer where these have more rows than this
AGAIN = "remove that score folder and run the same command again; the store rebuilds it"

Ids = npt.NDArray[np.int64]
Item = TypeVar("Item")
Result = TypeVar("Result")


def folder_digest(folder: str) -> str:
    """`clip-0123456789abcdef` -> `0123456789abcdef`."""
    return folder.rpartition("-")[2]


def score_folder(folders: Mapping[str, str], scorer: str, user: str) -> str:
    """The folder of `scorer`; `user` is the setting that asked for it."""
    if scorer not in folders:
        raise SluiceError(
            f"{user} asks for the scorer {scorer!r}, the recipe has {', '.join(sorted(folders))}",
            f"add {scorer!r} to the recipe's scores, or change {user}",
        )
    return folders[scorer]


def dataset_at(url: str) -> Dataset:
    """The dataset version whose folder is `url`."""
    return Dataset(artifact_at(url))


def artifact_at(url: str) -> Artifact:
    artifact = load(url)
    if artifact is None:
        raise SluiceError(f"nothing is committed at {url}", "run the stage that makes it first")
    return artifact


def older_at(store: str, name: str | None, kind: str) -> str | None:
    """Where the artifact NAME@VERSION/DIGEST of a store is: a `kind` to go on from."""
    if name is None:
        return None
    version, _, digest = name.partition("/")
    url = join(store, *version.split("@"), kind, digest)
    artifact_at(url)
    return url


def columns_url(dataset_url: str, folder: str, shard: int) -> str:
    return join(dataset_url, "scores", folder, "columns", f"{part_name(shard)}.parquet")


def rows_url(dataset_url: str, shard: int) -> str:
    return join(dataset_url, "rows", f"{part_name(shard)}.parquet")


def column_schemas(
    dataset_url: str, folders: Mapping[str, str], shard: int
) -> dict[str, pa.Schema]:
    """What there is to write rules over: scorer name -> schema of its columns."""
    urls = {name: columns_url(dataset_url, folder, shard) for name, folder in folders.items()}
    urls[ROWS_NAME] = rows_url(dataset_url, shard)
    return {name: _schema(url) for name, url in sorted(urls.items())}


def _schema(url: str) -> pa.Schema:
    with filesystem.open_read(url) as file:
        return pq.read_schema(file)


def read_columns(
    dataset_url: str, folders: Mapping[str, str], shard: int, names: Iterable[str]
) -> pa.Table:
    """One shard's columns called `names` (each `scorer.column`), as many rows as rows/ has."""
    wanted: dict[str, list[str]] = {ROWS_NAME: ["row"]}
    for name in sorted(set(names)):
        scorer, _, column = name.partition(".")
        wanted.setdefault(scorer, []).append(column)
    joined: dict[str, Any] = {}
    count = -1
    for scorer, columns in wanted.items():
        url = (
            rows_url(dataset_url, shard)
            if scorer == ROWS_NAME
            else columns_url(dataset_url, folders[scorer], shard)
        )
        table = _read(url, sorted(set(columns)))
        count = table.num_rows if count < 0 else count
        _check_aligned(url, table.num_rows, count)
        joined |= {f"{scorer}.{column}": table[column] for column in table.column_names}
    return pa.table(joined)


@dataclass(frozen=True)
class Batch:
    """Shards whose rows stand in one table, one shard after the other.

    shards: ascending, of those asked for none between them left out. starts: where the rows of
    each start, int64 [shards + 1].
    """

    shards: Sequence[int]
    starts: Ids

    @property
    def rows(self) -> int:
        """Of a shard, on average."""
        return int(self.starts[-1]) // len(self.shards)

    @property
    def ids(self) -> Ids:
        """Of all rows."""
        firsts = np.array([index_id(shard, 0) for shard in self.shards]) - self.starts[:-1]
        return np.repeat(firsts, np.diff(self.starts)) + np.arange(self.starts[-1])

    def find(self, ids: Ids) -> tuple[slice, Ids]:
        """Where these shards stand among ids that ascend, and the ids' rows in the table."""
        ends = index_id(self.shards[0], 0), index_id(self.shards[-1] + 1, 0)
        place = slice(*np.searchsorted(ids, ends).tolist())
        shards = np.searchsorted(self.shards, ids[place] >> ROW_BITS)
        return place, self.starts[shards] + (ids[place] & (1 << ROW_BITS) - 1)

    def parts(self, table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
        """Each shard, and its rows of a table of as many rows as the batch has."""
        starts = self.starts.tolist()
        for shard, start, stop in zip(self.shards, starts, starts[1:], strict=False):
            yield shard, table.slice(start, stop - start)


def read_batches(
    dataset_url: str, folders: Mapping[str, str], shards: Iterable[int], names: Iterable[str]
) -> Iterator[tuple[Batch, pa.Table]]:
    """`read_columns` of shards, small ones together: what looks at a table costs some 40 ms a time.

    A batch ends at BATCH rows, and where a shard's columns are of other types.
    """
    shards, names = list(shards), list(names)
    held, rows = dict[int, pa.Table](), 0

    def read(shard: int) -> tuple[int, pa.Table]:
        return shard, read_columns(dataset_url, folders, shard, names)

    first = row_count(dataset_url, shards[0]) if shards else 0
    for shard, table in overlapped(dataset_url, read, shards, first):
        rows += table.num_rows
        if held and (rows > BATCH or next(iter(held.values())).schema != table.schema):
            yield _batch(held)
            held, rows = {}, table.num_rows
        held[shard] = table
    if held:
        yield _batch(held)


def overlapped(
    url: str, function: Callable[[Item], Result], items: Iterable[Item], rows: int
) -> Iterator[Result]:
    """function(item) of each item, in order: a remote store's answers are waited for together.

    Each reads or writes a shard's files at `url`; rows: of a shard, about.
    """
    if is_local(url):  # where threads would only contend for the interpreter
        yield from map(function, items)
        return
    count = min(AHEAD, ROWS_AHEAD // max(rows, 1))
    with ThreadPoolExecutor(max(count, 1)) as threads:
        yield from ahead(threads, function, items, count)


def _batch(held: Mapping[int, pa.Table]) -> tuple[Batch, pa.Table]:
    starts = np.cumsum([0, *(table.num_rows for table in held.values())], dtype=np.int64)
    return Batch(list(held), starts), pa.concat_tables(held.values()).combine_chunks()


def _read(url: str, columns: list[str]) -> pa.Table:
    """A file of columns; a missing or damaged one is named."""
    try:
        return read_table(url, columns)
    except FileNotFoundError as error:
        raise SluiceError(f"there are no scores at {url}", AGAIN) from error
    except (pa.ArrowInvalid, KeyError) as error:
        raise SluiceError(f"{url} is damaged, or lacks {', '.join(columns)}", AGAIN) from error


def read_vectors(dataset_url: str, folder: str, vector: str, shard: int) -> np.ndarray:
    """One shard's vectors, float16 [rows, dim]: L2-normalised, all zero where missing."""
    url = join(dataset_url, "scores", folder, vector, f"{part_name(shard)}.npy")
    try:
        array = np.load(io.BytesIO(filesystem.read_bytes(url)), allow_pickle=False)
    except FileNotFoundError as error:
        raise SluiceError(f"there are no vectors at {url}", f"check {vector!r}'s name") from error
    except ValueError as error:
        raise SluiceError(f"{url} is damaged: {error}", AGAIN) from error
    _check_aligned(url, array.shape[0], row_count(dataset_url, shard))
    return array


def read_vectors_of(
    dataset_url: str, folder: str, vector: str, shard: int, rows: npt.NDArray[np.int64]
) -> np.ndarray:
    """Some rows of one shard's vectors, ascending; where they are few, the others are not read."""
    if len(rows) * FEW > row_count(dataset_url, shard):
        return read_vectors(dataset_url, folder, vector, shard)[rows]
    url = join(dataset_url, "scores", folder, vector, f"{part_name(shard)}.npy")
    try:
        with filesystem.open_read(url, ahead=False) as file:
            np.lib.format.read_magic(file)
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
            _check_aligned(url, shape[0], row_count(dataset_url, shard))
            start, size = file.tell(), shape[1] * kind.itemsize
            found = np.empty((len(rows), shape[1]), kind)
            for place, row in enumerate(rows.tolist()):
                file.seek(start + row * size)
                found[place] = np.frombuffer(file.read(size), kind)
    except FileNotFoundError as error:
        raise SluiceError(f"there are no vectors at {url}", f"check {vector!r}'s name") from error
    except ValueError as error:
        raise SluiceError(f"{url} is damaged: {error}", AGAIN) from error
    return found


def row_count(dataset_url: str, shard: int) -> int:
    """The rows of a shard, from the footer of its file alone."""
    with filesystem.open_read(rows_url(dataset_url, shard)) as file:
        return pq.read_metadata(file).num_rows


def _check_aligned(url: str, found: int, expected: int) -> None:
    if found != expected:
        raise SluiceError(f"{url} holds {found} rows, its dataset's shard {expected}", AGAIN)
