"""What became of each sample from one version to another, in bounded memory.

Of every row 18 bytes are kept, its uid and its state, on disk, in pieces by uid; then piece by
piece both versions are sorted and laid over each other. So it takes the memory of one piece and of
one shard, whatever the versions' size, and uids may lie anywhere in either.
"""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from flows.store.funnel import KEPT
from infra import filesystem
from infra.dataset import Dataset
from infra.filesystem import join

ABSENT = "absent"  # the state of a uid that a version does not have
ROWS_AT_ONCE = 1 << 20  # rows of a piece, about
PIECES = 4096
EXAMPLES = 3  # uids shown of each change
CHANGES = pa.schema([("uid", pa.string()), ("from", pa.string()), ("to", pa.string())])

_ROW = np.dtype([("high", ">u8"), ("low", ">u8"), ("state", "<u2")])
_NONE = np.uint16(2**16 - 1)

Rows = npt.NDArray[np.void]


@dataclass(frozen=True)
class Moved:
    """How many uids went from one state to another, and some of them."""

    before: str
    after: str
    count: int
    examples: Sequence[str]


@dataclass(frozen=True)
class Movements:
    """What became of all uids. before, after: distinct uids of each version."""

    before: int
    after: int
    moved: Sequence[Moved]  # those that changed, most first

    @property
    def entered(self) -> int:
        """Samples that are kept now and were not."""
        return sum(each.count for each in self.moved if each.after == KEPT)

    @property
    def left(self) -> int:
        """Samples that were kept and are not any more."""
        return sum(each.count for each in self.moved if each.before == KEPT)


def movements(
    before: Dataset,
    after: Dataset,
    changes: str | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Movements:
    """Every uid's state in both versions; of rows with one uid the best state counts.

    changes: a Parquet file to write, with each uid that changed (CHANGES). advance: called after
    each shard of each version.
    """
    reasons = {*before.artifact.totals["dropped"], *after.artifact.totals["dropped"]}
    states = [KEPT, *sorted(reasons), ABSENT]
    most = max(version.artifact.totals["rows"] for version in (before, after))
    pieces = min(max(-(-most // ROWS_AT_ONCE), 1), PIECES)
    table = np.zeros((len(states), len(states)), np.int64)
    examples: dict[tuple[int, int], list[str]] = {}
    with tempfile.TemporaryDirectory(prefix="sluice-diff-") as folder, _writer(changes) as write:
        for side, version in enumerate((before, after)):
            _spread(version, states, Path(folder), side, pieces, advance)
        for piece in range(pieces):
            uids, old, new = _joined(Path(folder), piece, states.index(ABSENT))
            table += np.bincount(
                old.astype(np.int64) * len(states) + new, minlength=table.size
            ).reshape(table.shape)
            changed = np.flatnonzero(old != new)
            write(uids[changed], old[changed], new[changed], states)
            _note(examples, uids, old, new, changed)
    counts = Counter(
        {(a, b): int(table[a, b]) for a, b in zip(*np.nonzero(table), strict=True) if a != b}
    )
    absent = states.index(ABSENT)
    return Movements(
        int(table.sum() - table[absent].sum()),
        int(table.sum() - table[:, absent].sum()),
        [
            Moved(states[a], states[b], count, examples.get((int(a), int(b)), ()))
            for (a, b), count in counts.most_common()
        ],
    )


Write = Callable[[Rows, npt.NDArray[np.uint16], npt.NDArray[np.uint16], Sequence[str]], None]


@contextlib.contextmanager
def _writer(path: str | None) -> Iterator[Write]:
    """Writes uids that changed, with their states, to a Parquet file; to none where `path` is."""
    if path is None:
        yield lambda uids, old, new, states: None
        return
    folder, _, name = path.rpartition("/")
    with (
        filesystem.write_whole(folder or ".", name) as file,
        pq.ParquetWriter(pa.PythonFile(file, "w"), CHANGES, compression="zstd") as parquet,
    ):

        def write(
            uids: Rows,
            old: npt.NDArray[np.uint16],
            new: npt.NDArray[np.uint16],
            states: Sequence[str],
        ) -> None:
            named = pa.array(states)
            columns = [_hex(uids), named.take(pa.array(old)), named.take(pa.array(new))]
            parquet.write_table(pa.table(columns, schema=CHANGES))

        yield write
    filesystem.remove_empty(join(folder or ".", filesystem.TEMPORARY))


def _spread(
    version: Dataset,
    states: Sequence[str],
    folder: Path,
    side: int,
    pieces: int,
    advance: Callable[[], None],
) -> None:
    """Append each row of a version to the file of its piece."""
    known = pa.array(states)
    for shard in sorted(version.shards):
        rows = version.rows(shard, ["uid", "status", "reason"])
        found = np.empty(rows.num_rows, _ROW)
        keys = uid_keys(rows["uid"])
        found["high"], found["low"] = keys[:, 0], keys[:, 1]
        found["state"] = _states(rows, known)
        place = (keys[:, 0] >> np.uint64(32)) * np.uint64(pieces) >> np.uint64(32)
        order = np.argsort(place, kind="stable")
        found, place = found[order], place[order]
        starts = np.flatnonzero(np.diff(place, prepend=np.uint64(pieces)))
        for start, stop in zip(starts, [*starts[1:], len(found)], strict=True):
            with (folder / f"{side}-{int(place[start])}").open("ab") as file:
                file.write(found[start:stop].tobytes())
        advance()


def uid_keys(uids: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """uids, 32 hex characters each, as two numbers: [n, 2]."""
    joined = bytes.fromhex("".join(uids.to_pylist()))
    return np.frombuffer(joined, ">u8").reshape(-1, 2).astype(np.uint64)


def _states(rows: pa.Table, known: pa.Array) -> npt.NDArray[np.uint16]:
    import pyarrow.compute as pc

    kept = pc.equal(rows["status"], "ok")  # pyright: ignore[reportAttributeAccessIssue]
    named = pc.if_else(kept, KEPT, pc.coalesce(rows["reason"], rows["status"]))  # pyright: ignore[reportAttributeAccessIssue]
    found = pc.index_in(named, known)  # pyright: ignore[reportAttributeAccessIssue]
    return found.combine_chunks().to_numpy(zero_copy_only=False).astype(np.uint16)


def _joined(
    folder: Path, piece: int, absent: int
) -> tuple[Rows, npt.NDArray[np.uint16], npt.NDArray[np.uint16]]:
    """The distinct uids of a piece, ascending, and the state of each in both versions."""
    sides = [_read(folder / f"{side}-{piece}") for side in (0, 1)]
    every = np.concatenate(sides)
    side = np.repeat([0, 1], [len(each) for each in sides])
    order = np.lexsort((every["low"].astype(np.uint64), every["high"].astype(np.uint64)))
    every, side = every[order], side[order]
    if not len(every):
        nothing = np.empty(0, np.uint16)
        return every, nothing, nothing
    other = (every["high"][1:] != every["high"][:-1]) | (every["low"][1:] != every["low"][:-1])
    starts = np.flatnonzero(np.concatenate([[True], other]))
    states = [
        np.minimum.reduceat(np.where(side == each, every["state"], _NONE), starts)
        for each in (0, 1)
    ]
    old, new = (np.where(state == _NONE, np.uint16(absent), state) for state in states)
    return every[starts], old, new


def _read(path: Path) -> Rows:
    return np.fromfile(path, _ROW) if path.exists() else np.empty(0, _ROW)


def _hex(uids: Rows) -> list[str]:
    return [f"{int(high):016x}{int(low):016x}" for high, low in zip(uids["high"], uids["low"])]  # noqa: B905


def _note(
    examples: dict[tuple[int, int], list[str]],
    uids: Rows,
    old: npt.NDArray[np.uint16],
    new: npt.NDArray[np.uint16],
    changed: npt.NDArray[np.int64],
) -> None:
    pairs = np.stack([old[changed], new[changed]], axis=1)
    for pair in np.unique(pairs, axis=0):
        found = examples.setdefault((int(pair[0]), int(pair[1])), [])
        places = changed[(pairs == pair).all(axis=1)][: EXAMPLES - len(found)]
        found += _hex(uids[places])
