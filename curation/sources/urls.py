"""Tables of URLs: LAION's, DataComp's, img2dataset's, one's own. The images are still to come.

Every row of a table is a record, in the table's order; a row that cannot be fetched (no URL,
no caption, a line that is no row) is a record with its reason. A shard is `rows_per_shard` rows,
whatever the row groups and files they lie in. Parquet is read where it lies; text cannot be cut
without being read, so `text_tables` turns it into Parquet first.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from curation.outcomes import BAD_URL, HASH_MISMATCH, MISSING_URL
from curation.settings import SourceSettings
from curation.sources import base, columnar
from curation.sources.base import Record
from curation.sources.columnar import DAMAGED, NotWholeError, ParquetGroups, Replaced
from curation.sources.tables import TableFile, format_of, list_tables, read_footers
from infra.artifacts import Artifact
from infra.errors import SluiceError

BATCH = 1024  # rows in memory at once: rows without images are small
# What nearly all are: told in a tenth of the time.
_PLAIN = re.compile(r"https?://[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(:[1-9][0-9]{0,3})?(/[!-~]*)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HASH = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows `first` to `first + count` of a file."""

    file: TableFile
    first: int
    count: int

    def records(self) -> Iterator[Record]:
        """A record for each row; those of a damaged row group from the damage on are refused."""
        roles = dict(self.file.roles)
        with columnar.open_raw(self.file.url) as raw:
            groups = _opened(raw, self.file)
            names = columnar.riders(groups.schema, roles)
            start = 0
            for group, size in enumerate(groups.sizes):
                skip = max(self.first - start, 0)
                count = min(size, self.first + self.count - start) - skip
                read = 0
                if count > 0:
                    for rows in columnar.read_rows(groups, names, group, skip, count):
                        for row in rows:
                            source = f"{self.file.label}#{start + skip + read}"
                            yield record_of(source, row, roles)
                            read += 1
                for index in range(read, count):
                    yield Record(f"{self.file.label}#{start + skip + index}", reason=DAMAGED)
                start += size


def _opened(raw: BinaryIO, file: TableFile) -> ParquetGroups:
    if raw.seek(0, 2) != file.bytes:
        raise columnar.changed(file.url)
    try:
        groups = ParquetGroups(raw, file.url, BATCH)
    except NotWholeError as error:
        raise columnar.changed(file.url) from error
    gone = {column for _, column in file.roles} - set(groups.schema.names)
    if gone or sum(groups.sizes) != file.rows:
        raise columnar.changed(file.url)
    return groups


def record_of(source: str, row: Mapping[str, Any], roles: Mapping[str, str]) -> Record:
    """The record of a row; `roles` without a caption: the table has none, and "" is right."""
    cells = {role: row[column] for role, column in roles.items()}
    if "meta" in cells:
        meta = json.loads(cells["meta"] or "{}")
    else:
        named = set(roles.values())
        meta = {name: value for name, value in row.items() if name not in named}
    if cells.get("reason"):
        return Record(source, uid=_text(cells.get("uid")), meta=meta, reason=cells["reason"])
    url, caption, uid, expected = (
        _text(cells.get(role)) for role in ("url", "caption", "uid", "expected")
    )
    reason = None
    if url is None:
        reason = MISSING_URL
    elif isinstance(cells["url"], Replaced) or not is_web_url(url):
        reason = BAD_URL
    elif "caption" in roles and caption is None:
        reason = base.MISSING_CAPTION
    elif isinstance(cells.get("caption"), Replaced):
        reason = base.CAPTION_NOT_UTF8
    elif expected and not _HASH.fullmatch(expected.lower()):
        reason = HASH_MISMATCH  # no bytes have such a hash
    return Record(
        source,
        caption=caption if "caption" in roles else "",
        url=url,
        uid=uid,
        meta=meta,
        reason=reason,
        expected=expected.lower() if expected else None,
    )


def _text(value: Any) -> str | None:
    """A cell's text without white space around it, None where there is none.

    Writers of old left text columns without the mark that they are text: those hold bytes.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return (base.text_of(value) or "").strip() or None


def is_web_url(url: str) -> bool:
    """Whether `url` is an http(s) URL with a host."""
    if _PLAIN.fullmatch(url):
        return True
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # both raise ValueError for what is none
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or not host or _CONTROL.search(url):
        return False
    return not any(sign.isspace() for sign in parts.netloc)


@dataclass(frozen=True, slots=True)
class UrlUnit:
    """The rows of a shard: pieces of one or more files."""

    pieces: tuple[Piece, ...]

    @property
    def name(self) -> str:
        first, last = self.pieces[0], self.pieces[-1]
        end = last.first + last.count - 1
        if first is last:
            return f"{first.file.url} rows {first.first} to {end}"
        return f"{first.file.url} row {first.first} to {last.file.url} row {end}"

    def records(self) -> Iterator[Record]:
        for piece in self.pieces:
            yield from piece.records()


@dataclass(frozen=True)
class UrlSource:
    """Tables of URLs by file, folder or pattern, all of one format.

    tables: the artifact of `text_tables`, which text needs before it can be cut into units.
    """

    settings: SourceSettings
    tables: Artifact | None = None

    def files(self) -> list[str]:
        return list_tables(self.settings.location)

    def units(self, rows_per_shard: int) -> Sequence[UrlUnit]:
        """Runs of exactly `rows_per_shard` rows, the last one of what is left."""
        files = self.files()
        pairs = list(zip(files, base.labels(files), strict=True))
        if format_of(files[0]) == "parquet":
            tables = read_footers(pairs, self.settings)
        else:
            tables = self._parts(pairs)
        _captions_alike(tables)
        units = [UrlUnit(pieces) for pieces in cut(tables, rows_per_shard)]
        if not units:
            raise SluiceError(
                f"the tables at {self.settings.location} have no rows", "check the source's `urls`"
            )
        return units

    def _parts(self, pairs: Sequence[tuple[str, str]]) -> list[TableFile]:
        """What `text_tables` made of the files."""
        if self.tables is None:
            raise SluiceError(
                f"{self.settings.location} holds text, which is turned into Parquet first",
                "this is a defect of the caller; please report it with this message",
            )
        files = files_of(self.tables)
        if [file.label for file in files] != [label for _, label in pairs]:
            raise columnar.changed(self.settings.location)
        return files


def files_of(tables: Artifact) -> list[TableFile]:
    """The files of what `text_tables` made."""
    return [
        TableFile(
            tables.path(part.files[0].path),
            part.extra["label"],
            part.rows,
            part.files[0].bytes,
            tuple((role, role) for role in part.extra["roles"]),
        )
        for part in tables.parts
    ]


def needs_tables(settings: SourceSettings) -> bool:
    """Whether `text_tables` must run before the source's units can be known."""
    return settings.kind == "urls" and format_of(list_tables(settings.location)[0]) != "parquet"


def _captions_alike(tables: Sequence[TableFile]) -> None:
    """All tables have captions, or none has: else some would lose theirs in silence."""
    first: dict[bool, str] = {}
    for table in tables:
        if table.rows:
            first.setdefault("caption" in dict(table.roles), table.label)
    if len(first) > 1:
        raise SluiceError(
            f"{first[True]} has captions, {first[False]} has none", "make them two sources"
        )


def cut(tables: Sequence[TableFile], rows: int) -> Iterator[tuple[Piece, ...]]:
    """All rows of the tables in order, in runs of `rows`; the last run may be shorter."""
    pieces: list[Piece] = []
    held = 0
    for table in tables:
        first = 0
        while first < table.rows:
            count = min(rows - held, table.rows - first)
            pieces.append(Piece(table, first, count))
            first, held = first + count, held + count
            if held == rows:
                yield tuple(pieces)
                pieces, held = [], 0
    if pieces:
        yield tuple(pieces)
