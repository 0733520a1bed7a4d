"""Finding what must go: a few columns of rows/, shard by shard; pixels only for an MD5.

A row matches by its uid, its URL (or the domain of that) or the SHA-256 of its image. What matches
in one version is looked for in all, by uid and by SHA-256, until nothing more is found: so the
curated version loses what the pool loses, and a copy under another URL goes with the original.
"""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.fetch.blocklists import Blocklists, Entries
from curation.outcomes import BAD_LINE, SILENT
from curation.takedown.list import joined, members
from infra import samples
from infra.artifacts import Artifact
from infra.dataset import Dataset, index_id, part_name, read_samples, read_table
from infra.filesystem import join
from infra.progress import Display
from infra.runner import Runner

MATCHES = pa.schema(
    [
        ("id", pa.int64()),  # shard << 20 | row
        ("uid", pa.string()),
        ("sha256", pa.string()),
        ("tar", pa.string()),  # URL of the tar that its image lies in; null where it has none
    ]
)
SHARDS = 16  # looked through by one worker in one go
COLUMNS: Mapping[str, str] = {"uids": "uid", "sha256": "sha256", "urls": "url", "domains": "url"}

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Piece:
    """Some shards of the version at `url`; lines: those that have lines that are no rows."""

    url: str
    shards: tuple[int, ...]
    lines: frozenset[int]


@dataclass
class Found:
    """What matched: rows (MATCHES) by URL of the version, and all entries that they match."""

    entries: dict[str, bytearray]
    rows: dict[str, pa.Table] = field(default_factory=dict[str, pa.Table])


def find(versions: Sequence[Artifact], entries: Entries, runner: Runner, display: Display) -> Found:
    """All rows of the versions that match the entries, and those that match what these are."""
    pieces = [
        Piece(version.url, tuple(some), lines)
        for version in versions
        for lines in [_with_lines(version)]
        for some in _cut(Dataset(version).shards)
    ]
    found, asked = Found(joined(entries)), joined(entries)
    tables: dict[str, list[pa.Table]] = {}
    turn = 0
    while asked:
        turn += 1
        line = display.stage(f"find, turn {turn}", len(pieces), "pieces")
        count = 0
        for index, table in runner.map(FindWork(asked), pieces):
            count += table.num_rows
            tables.setdefault(pieces[index].url, []).append(table)
            line.advance(1, f"{count} rows")
        line.finish(f"{count} rows")
        asked = _more(found.entries, (each for some in tables.values() for each in some))
        found.entries = joined(found.entries, asked)
    for url, some in tables.items():
        rows = pa.concat_tables(some).group_by(MATCHES.names, use_threads=False).aggregate([])
        if rows.num_rows:
            found.rows[url] = rows.select(MATCHES.names).sort_by("id").combine_chunks()
    return found


def _with_lines(version: Artifact) -> frozenset[int]:
    return frozenset(int(part.name) for part in version.parts if part.dropped.get(BAD_LINE))


def _cut(shards: Sequence[int]) -> Iterable[Sequence[int]]:
    return (shards[start : start + SHARDS] for start in range(0, len(shards), SHARDS))


def _more(known: Entries, tables: Iterable[pa.Table]) -> dict[str, bytearray]:
    """The uids and SHA-256 of rows that are not among the known entries."""
    new: dict[str, set[str]] = {"uids": set(), "sha256": set()}
    for table in tables:
        new["uids"].update(table["uid"].to_pylist())
        new["sha256"].update(filter(None, table["sha256"].to_pylist()))
    return {
        name: bytearray(b"".join(map(bytes.fromhex, more)))
        for name, found in new.items()
        if (more := sorted(found.difference(members(name, known))))
    }


@dataclass(frozen=True)
class FindWork:
    """The rows (MATCHES) of a piece that match the entries and still hold a sample or its facts."""

    entries: Entries

    def __call__(self, piece: Piece) -> pa.Table:
        wanted = {name: pa.array(members(name, self.entries)) for name in ("uids", "sha256")}
        names = sorted({column for kind, column in COLUMNS.items() if kind in self.entries})
        lists = Blocklists.of([self.entries])
        tables = [self._columns(piece.url, shard, names) for shard in piece.shards]
        found: list[pa.Table] = [MATCHES.empty_table()]
        for shard, table in zip(piece.shards, tables, strict=True):
            mask = np.zeros(table.num_rows, np.bool_)
            for kind, values in wanted.items():
                if kind in self.entries:
                    mask |= pc.is_in(table[COLUMNS[kind]], value_set=values).to_numpy()
            if "url" in names:
                mask |= _by_url(table["url"].to_pylist(), lists)
                if shard in piece.lines:
                    mask |= _by_line(self._columns(piece.url, shard, ["reason", "meta"]), lists)
            if lists.md5 is not None:
                for sample in read_samples(piece.url, shard):
                    mask[sample.row] |= lists.lists_bytes(sample.image)
            if mask.any():
                found.append(_matches(piece.url, shard, mask))
        return pa.concat_tables(found)

    def _columns(self, url: str, shard: int, names: list[str]) -> pa.Table:
        return read_table(join(url, "rows", f"{part_name(shard)}.parquet"), names or ["row"])


def _by_url(urls: Sequence[str | None], lists: Blocklists) -> list[bool]:
    """Which URLs are listed. By domain alone each host is looked up once, its paths never."""
    if lists.urls is not None:
        return [url is not None and lists.lists_url(url) for url in urls]
    known: dict[str, bool] = {}
    found: list[bool] = []
    for url in urls:
        host = "/".join((url or "").split("/", 3)[:3])  # https://host:port, and what is odd
        if host not in known:
            known[host] = lists.lists_url(f"{host}/")
        found.append(known[host])
    return found


def _by_line(rows: pa.Table, lists: Blocklists) -> list[bool]:
    """Which rows are lines, of a table, with a listed URL."""
    found = zip(rows["reason"].to_pylist(), rows["meta"].to_pylist(), strict=True)
    return [reason == BAD_LINE and lists.lists_line(meta or "") for reason, meta in found]


def _matches(url: str, shard: int, mask: Mask) -> pa.Table:
    """The marked rows of a shard, but for those that hold nothing any more."""
    name = part_name(shard)
    columns = ["row", "uid", "sha256", "reason", "tar"]
    rows = read_table(join(url, "rows", f"{name}.parquet"), columns).filter(pa.array(mask))
    rows = rows.filter(pc.invert(pc.is_in(rows["reason"], value_set=pa.array(sorted(SILENT)))))
    numbers = rows["tar"].to_pylist()
    tars: list[str] = []
    if any(number is not None for number in numbers):
        tars = [samples.locate(url, tar.url) for tar in samples.read_tars(url, name)]
    ids = index_id(shard, 0) | rows["row"].to_numpy().astype(np.int64)
    places = pa.array([None if n is None else tars[n] for n in numbers], pa.string())
    return pa.table([pa.array(ids), rows["uid"], rows["sha256"], places], schema=MATCHES)
