"""Distributions of two versions side by side: score columns, and shares of languages and the like.

Counts and means are of every kept sample. Quartiles, distances and shares are of a sample of them,
drawn by uid, so that both versions draw the same ones as far as they share them.
"""
# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.columns import columns_url
from flows.store.states import uid_keys
from indexes.embeddings import all_scores_of
from infra.dataset import Dataset, read_table

SAMPLE = 100_000  # kept samples of a version
VALUES = 256  # a column of words with more values than these has no shares worth telling
SHOWN = 12  # values of a column of words
_IDENTITY = re.compile(r"[0-9a-f]{32,}")  # a hash is no value that anybody counts
OWN = ("width", "height", "bytes")  # columns of rows/

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Numbers:
    """A numeric column of one version. low, middle, high: its quartiles. values: sorted."""

    count: int
    mean: float
    low: float
    middle: float
    high: float
    values: Floats = field(repr=False, compare=False)


@dataclass(frozen=True)
class Shift:
    """A numeric column in both. distance: Kolmogorov and Smirnov's, the largest difference of the
    shares below any value; beyond_chance: of samples this large at the level 0.001."""

    column: str
    old: Numbers
    new: Numbers
    distance: float
    beyond_chance: bool


@dataclass(frozen=True)
class Shares:
    """A column of words in both: (value, old share, new share), the largest change first."""

    column: str
    values: Sequence[tuple[str, float, float]]

    @property
    def change(self) -> float:
        """The largest of any value."""
        return abs(self.values[0][1] - self.values[0][2])


@dataclass
class _Column:
    count: int = 0
    total: float = 0.0
    values: list[Floats] = field(default_factory=list[Floats])

    def numbers(self) -> Numbers | None:
        if not self.count:
            return None
        values = np.sort(np.concatenate(self.values))
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75]) if len(values) else [np.nan] * 3
        return Numbers(
            self.count, self.total / self.count, float(low), float(middle), float(high), values
        )


@dataclass
class Seen:
    """What was seen of one version's kept samples."""

    numbers: dict[str, _Column] = field(default_factory=dict[str, _Column])
    words: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    sampled: int = 0


def observe(version: Dataset, advance: Callable[[], None] = lambda: None) -> Seen:
    """Go through the rows and score columns of a version, shard by shard."""
    home, folders = all_scores_of(version)
    share = min(1.0, SAMPLE / max(version.artifact.totals["kept"], 1))
    seen = Seen()
    for shard in sorted(version.shards):
        rows = version.rows(shard, ["uid", "status", "format", "url", *OWN])
        kept = pc.equal(rows["status"], "ok").combine_chunks()
        own = rows.filter(kept)
        drawn = _drawn(own["uid"], share)
        seen.sampled += int(drawn.sum())
        for name in OWN:
            _number(seen, f"rows.{name}", own[name], drawn)
        _word(seen, "format", own["format"].filter(pa.array(drawn)).to_pylist())
        urls = own["url"].filter(pa.array(drawn)).to_pylist()
        _word(seen, "domain", [_host(url) if url else None for url in urls])
        for name, table in _tables(home, folders, shard):
            for column in table.column_names:
                values = table[column].filter(kept)
                if pa.types.is_string(values.type):
                    _word(seen, f"{name}.{column}", values.filter(pa.array(drawn)).to_pylist())
                elif _is_number(values.type):
                    _number(seen, f"{name}.{column}", values, drawn)
        advance()
    return seen


def _tables(
    home: str, folders: Mapping[str, Sequence[str]], shard: int
) -> Iterator[tuple[str, pa.Table]]:
    """The score columns of a shard by scorer; a scorer with two folders is told apart by digest."""
    for scorer, found in sorted(folders.items()):
        for folder in found:
            try:
                table = read_table(columns_url(home, folder, shard))
            except FileNotFoundError:
                continue
            yield (scorer if len(found) == 1 else folder), table


def _drawn(uids: pa.ChunkedArray, share: float) -> npt.NDArray[np.bool_]:
    """Which uids are in the sample: a mix of their bits, so that any uids will do."""
    if share >= 1 or not len(uids):
        return np.ones(len(uids), bool)
    keys = uid_keys(uids)
    mixed = (keys[:, 0] ^ keys[:, 1] >> np.uint64(29)) * np.uint64(0x9E3779B97F4A7C15)
    return mixed < np.uint64(int(share * 2**64))


def _is_number(kind: pa.DataType) -> bool:
    """Hashes are no numbers that anybody compares."""
    return (
        pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or (pa.types.is_integer(kind) and not pa.types.is_uint64(kind))
    )


def _number(seen: Seen, name: str, column: pa.ChunkedArray, drawn: npt.NDArray[np.bool_]) -> None:
    values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    there = np.isfinite(values)
    found = seen.numbers.setdefault(name, _Column())
    found.count += int(there.sum())
    found.total += float(values[there].sum())
    found.values.append(values[there & drawn].astype(np.float64))


def _word(seen: Seen, name: str, values: Sequence[str | None]) -> None:
    seen.words.setdefault(name, Counter()).update(value or "" for value in values)


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def shifts(old: Seen, new: Seen) -> list[Shift]:
    """The numeric columns that both have, the furthest apart first."""
    found: list[Shift] = []
    for name in old.numbers.keys() & new.numbers.keys():
        before, after = old.numbers[name].numbers(), new.numbers[name].numbers()
        if before is None or after is None or not len(before.values) or not len(after.values):
            continue
        distance = ks_distance(before.values, after.values)
        sizes = len(before.values), len(after.values)
        # Smirnov's asymptotic bound: sqrt(ln(2 / 0.001) / 2) is 1.949.
        beyond = distance > 1.949 * np.sqrt(sum(sizes) / (sizes[0] * sizes[1]))
        found.append(Shift(name, before, after, distance, bool(beyond)))
    return sorted(found, key=lambda each: (-each.distance, each.column))


def ks_distance(a: Floats, b: Floats) -> float:
    """The largest difference of the two empirical distribution functions; a, b ascending."""
    every = np.concatenate([a, b])
    below = [np.searchsorted(each, every, side="right") / len(each) for each in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def shares(old: Seen, new: Seen) -> list[Shares]:
    """The columns of words that both have, the largest change first."""
    found: list[Shares] = []
    for name in old.words.keys() & new.words.keys():
        counts = old.words[name], new.words[name]
        few = max(map(len, counts)) <= VALUES or name == "domain"
        if not few or not all(map(any, counts)) or any(map(_IDENTITY.fullmatch, counts[0])):
            continue
        before, after = ({value: n / each.total() for value, n in each.items()} for each in counts)
        moved = [(value, before.get(value, 0.0), after.get(value, 0.0))
                 for value in before.keys() | after.keys()]  # fmt: skip
        moved.sort(key=lambda each: (-abs(each[1] - each[2]), -each[1], each[0]))
        found.append(Shares(name, moved[:SHOWN]))
    return sorted(
        found, key=lambda each: (-abs(each.values[0][1] - each.values[0][2]), each.column)
    )
