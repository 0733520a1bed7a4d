"""Text tables of URLs turned into Parquet, because text cannot be cut without reading it.

<store>/<dataset>/tables/<digest>/00000.parquet    the rows of the first file, and so on

One part for each text file, in the files' order, and one row for each of its rows, bad lines
included. Read block by block: memory depends on neither the file's size nor its longest line.
Of what was taken down a row has the uid alone; a takedown removes the tables made before it.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.fetch.blocklists import Blocklists
from curation.intake import LISTING, names_listed, uid_of
from curation.outcomes import BAD_LINE, BLOCKLISTED
from curation.settings import SourceSettings
from curation.sources import base, columnar
from curation.sources.base import Record
from curation.sources.roles import find_roles, usual_roles
from curation.sources.tables import format_of, list_tables
from curation.sources.text_lines import DELIMITERS, Bad, Row, parse_json, read_table
from curation.sources.urls import record_of
from curation.takedown.list import TakedownList, read_list
from infra.artifacts import Part, Spec
from infra.dataset import part_name
from infra.filesystem import join, write_whole
from infra.filesystem.entries import entries
from infra.stage import Draft, Item

CODE = 1
FOLDER = "tables"
GROUP_ROWS = 4096  # rows of a row group, or fewer where they hold more than GROUP_BYTES of text
GROUP_BYTES = 16 * 2**20
ROLES = ("url", "caption", "uid", "expected")
SCHEMA = pa.schema([(name, pa.string()) for name in (*ROLES, "meta", "reason")])

# Columns of LAION and DataComp that are numbers or lists wherever they have types; all other
# columns of CSV and TSV are text, as they stand there.
NUMBERS = re.compile(
    "sample_id|(original_)?(width|height)|hash|similarity|punsafe|pwatermark|aesthetic"
    "|clip_.*_similarity_score",
    re.IGNORECASE,
)
LISTS = ("face_bboxes",)
_INTEGER = re.compile("-?[0-9]{1,20}")
_DECIMAL = re.compile(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")

_json = json.JSONEncoder(separators=(",", ":")).encode


def text_tables_draft(
    store: str,
    name: str,
    source: SourceSettings,
    fingerprint: str,
    takedowns: Sequence[TakedownList] = (),
) -> Draft:
    """The artifact to be; fingerprint: of the files, as for `ingest_draft`."""
    columns = {role: getattr(source, role) for role in ROLES if getattr(source, role) is not None}
    settings: dict[str, Any] = {"columns": columns, "fingerprint": fingerprint}
    if takedowns:
        settings |= {"takedowns": [each.digest for each in takedowns], "listing": LISTING}
    spec = Spec("tables", "curation.text_tables", settings, (), CODE)
    return Draft(join(store, name, FOLDER, spec.digest), spec)


def copies(store: str) -> list[str]:
    """The folders of all such tables in a store, finished or not."""
    named = [each.url for each in entries(store) if each.folder]
    found = [each for url in named for each in entries(join(url, FOLDER)) if each.folder]
    return [each.url for each in found]


@dataclass(frozen=True)
class TextTable:
    """A text file to be turned into part `part`."""

    part: int
    url: str
    label: str
    settings: SourceSettings


def text_tables_items(source: SourceSettings) -> list[Item]:
    """One item for each text file. Raises SluiceError for a source that is missing or mixed."""
    files = list_tables(source.location)
    return [
        Item(part_name(index), TextTable(index, url, label, source))
        for index, (url, label) in enumerate(zip(files, base.labels(files), strict=True))
    ]


@dataclass(frozen=True)
class TextTablesWork:
    """Writes the part of one text file below `url`, without what `takedowns` list."""

    url: str
    takedowns: tuple[TakedownList, ...] = ()

    def __call__(self, value: TextTable, todo: list[str]) -> dict[str, Part]:
        name = part_name(value.part)
        path = f"{name}.parquet"
        kind = format_of(value.url)
        rows = 0
        lists = Blocklists.of([read_list(each) for each in self.takedowns])
        with (
            columnar.open_raw(value.url, in_order=True) as raw,
            write_whole(self.url, path) as file,
        ):
            columns, lines = read_table(raw, value.url, kind)
            roles = (
                find_roles(value.url, columns, value.settings)
                if columns
                else usual_roles(value.settings)
            )
            readers = _readers(columns) if kind in DELIMITERS else {}
            with pq.ParquetWriter(file, SCHEMA, compression="zstd", use_dictionary=False) as writer:
                found = (_entry(line, roles, readers) for line in lines)
                names = [*roles, "meta", "reason"]
                if not lists.empty:
                    names = [*dict.fromkeys((*names, "uid"))]
                    found = _obeying(found, value.label, lists)
                for group in _groups(found):
                    writer.write_table(pa.Table.from_pylist(group, SCHEMA))
                    rows += len(group)
        extra = {"label": value.label, "roles": names}
        return dict.fromkeys(todo, Part(name, (file.part(path),), rows, rows, {}, extra))


Entry = Mapping[str, str | None]


def _groups(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    group: list[Entry] = []
    held = 0
    for entry in entries:
        group.append(entry)
        held += sum(len(text) for text in entry.values() if text)
        if len(group) == GROUP_ROWS or held >= GROUP_BYTES:
            yield group
            group, held = [], 0
    if group:
        yield group


def _entry(
    row: Row | Bad, roles: Mapping[str, str], readers: Mapping[str, Callable[[str], Any]]
) -> Entry:
    """A row of SCHEMA; readers: column -> what makes a value of its text, for CSV and TSV."""
    if isinstance(row, Bad):
        return {"meta": _json({"line": row.text}), "reason": BAD_LINE}
    entry = {role: _cell(role, row.get(column)) for role, column in roles.items()}
    named = set(roles.values())
    meta = {name: value for name, value in row.items() if name not in named}
    for name in meta.keys() & readers.keys():
        meta[name] = readers[name](meta[name])
    if meta:
        entry["meta"] = _json(meta)
    return entry


def _obeying(found: Iterable[Entry], label: str, lists: Blocklists) -> Iterator[Entry]:
    """The entries of a file; of one that is listed the uid alone, as in the row it becomes."""
    for number, entry in enumerate(found):
        record = record_of(f"{label}#{number}", entry, {name: name for name in entry})
        hidden = is_listed(record, lists)
        yield {"uid": uid_of(record), "reason": BLOCKLISTED} if hidden else entry


def is_listed(record: Record, lists: Blocklists) -> bool:
    """Whether a record of a table is listed, by its uid or its URL."""
    return lists.lists_uid(uid_of(record)) or names_listed(record, lists)


def _cell(role: str, value: Any) -> str | None:
    if isinstance(value, str):
        return base.clean(value)
    # A URL or a hash that is no text is a wrong one, not a missing one.
    return _json(value) if role in ("url", "expected") and value is not None else None


def _readers(columns: Sequence[str]) -> dict[str, Callable[[str], Any]]:
    readers: dict[str, Callable[[str], Any]] = {}
    for name in columns:
        if name.lower() in LISTS:
            readers[name] = _list
        else:
            readers[name] = _number if NUMBERS.fullmatch(name) else _words
    return readers


def _words(text: str) -> str | None:
    return text or None


def _number(text: str) -> int | float | str | None:
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else _words(text)


def _list(text: str) -> Any:
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        return _words(text)
