"""Text tables as streams of rows: gzip and zstd undone, lines bounded, CSV by RFC 4180.

What is no row is given as `Bad`, with the beginning of its text, and reading goes on at the next
line: no line of a file is passed over in silence but empty ones.
"""

import csv
import gzip
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO

import pyarrow as pa

from infra.errors import SluiceError

BLOCK = 2**20
LINE_LIMIT = 16 * 2**20  # bytes of a line, and of a CSV record with its lines
SHOWN = 1000  # characters of a bad line that are kept
HEAD = 100  # lines of a JSON table whose keys are its columns
DELIMITERS = {"csv": ",", "tsv": "\t"}
Row = Mapping[str, Any]
parse_json = json.JSONDecoder(parse_constant=lambda _: None).decode  # NaN and the like are null


@dataclass(frozen=True)
class Bad:
    """A line, or more of them, that is no row."""

    text: str

    @staticmethod
    def of(line: bytes | str) -> "Bad":
        text = line[: 4 * SHOWN].decode("utf-8", "replace") if isinstance(line, bytes) else line
        return Bad(text[:SHOWN])


def read_table(raw: BinaryIO, url: str, kind: str) -> tuple[list[str], Iterator[Row | Bad]]:
    """The columns of a text table (csv, tsv, json or txt) and its rows in order.

    An empty file has no columns. Raises SluiceError, here or on the way, for a file that is no
    text of that kind, or that breaks off inside its compression.
    """
    lines = split_lines(_blocks(raw, url))
    first = next(lines, None)
    if first is None:
        return [], iter(())
    if first.startswith(b"\xef\xbb\xbf"):
        first = first[3:]
    _check(first, url, kind)
    lines = chain([first], lines)
    if kind == "txt":
        return ["url"], (_list_row(line) for line in lines)
    if kind == "json":
        return _json_table(lines)
    return _csv_table(lines, url, DELIMITERS[kind])


def _check(first: bytes, url: str, kind: str) -> None:
    """SluiceError for what is often mistaken for text of this kind."""
    if first.startswith(b"PAR1"):
        raise SluiceError(f"{url} is Parquet by its content", "name it NAME.parquet")
    if first.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SluiceError(f"{url} is UTF-16", "write it as UTF-8")
    if kind == "json" and first.lstrip().startswith(b"["):
        raise SluiceError(
            f"{url} is one JSON array, which cannot be read in pieces",
            "write an object a line, for example with `jq -c '.[]'`",
        )


def _blocks(raw: BinaryIO, url: str) -> Iterator[bytes]:
    """The file's bytes without their compression, which is told by its first bytes."""
    try:
        magic = raw.read(4)
        raw.seek(0)
        file: Any = raw
        if magic.startswith(b"\x1f\x8b"):
            file = gzip.GzipFile(fileobj=raw)
        elif magic == b"\x28\xb5\x2f\xfd":
            file = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
        while block := file.read(BLOCK):
            yield block
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise SluiceError(
                f"cannot read {url}: {error.strerror or error}",
                "check its permissions and its disk or connection, then run again",
            ) from error
        raise SluiceError(
            f"{url} is damaged or ends early: {error}",
            "fetch or write it again, or take it out of the source: move it away, or name the "
            "others with a pattern",
        ) from error


def split_lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The lines without their ends; of one over LINE_LIMIT, its first LINE_LIMIT + 1 bytes."""
    held: list[bytes] = []
    size = 0
    for block in blocks:
        *ended, rest = block.split(b"\n")
        for piece in ended:
            held.append(piece[: LINE_LIMIT + 1 - size])
            yield b"".join(held).removesuffix(b"\r")
            held, size = [], 0
        held.append(rest[: LINE_LIMIT + 1 - size])
        size += len(held[-1])
    if size:
        yield b"".join(held).removesuffix(b"\r")


def _list_row(line: bytes) -> Row | Bad:
    if len(line) > LINE_LIMIT:
        return Bad.of(line)
    try:
        return {"url": line.decode()}
    except UnicodeDecodeError:
        return Bad.of(line)


def _json_table(lines: Iterator[bytes]) -> tuple[list[str], Iterator[Row | Bad]]:
    head: list[bytes] = []
    size = 0
    for line in lines:
        head.append(line)
        size += len(line)
        if len(head) == HEAD or size > BLOCK:
            break
    known = [row for row in map(_json_row, head) if isinstance(row, Mapping)]
    columns = list(dict.fromkeys(name for row in known for name in row))
    return columns, (_json_row(line) for line in chain(head, lines) if line.strip())


def _json_row(line: bytes) -> Row | Bad:
    if len(line) > LINE_LIMIT:
        return Bad.of(line)
    try:
        value = parse_json(line.decode())
    except (ValueError, RecursionError):
        return Bad.of(line)
    return value if isinstance(value, dict) else Bad.of(line)


class _Records:
    """The records of CSV or TSV: lists of fields, or Bad.

    A quote opens a quoted field only where the field begins. Where it is not closed as it should
    be, the line it stands on is bad and the next line is read afresh: one stray quote must not
    swallow what follows. In TSV, which has no quotes by its definition (IANA
    text/tab-separated-values) though many write them, such a line is taken as it stands.
    """

    def __init__(self, lines: Iterator[bytes], delimiter: str) -> None:
        csv.field_size_limit(LINE_LIMIT)
        self._lines = lines
        self._delimiter = delimiter
        self._back: deque[bytes] = deque()  # lines that are to be read again
        self._taken: list[bytes] = []  # those of the record at hand
        self._size = 0
        self._utf8 = True
        self._reader = csv.reader(_Texts(self._text), delimiter=delimiter, strict=True)

    def __iter__(self) -> Iterator[list[str] | Bad]:
        while True:
            self._taken, self._size, self._utf8 = [], 0, True
            try:
                fields = next(self._reader)
            except (StopIteration, csv.Error):
                if not self._taken:
                    return
                first, *others = self._taken
                self._back.extendleft(reversed(others))
                yield self._literal(first)
            else:
                yield fields if self._utf8 else Bad.of(b"\n".join(self._taken))

    def _text(self) -> str:
        """The next line of the record at hand; StopIteration where it has none or is too long."""
        line = self._back.popleft() if self._back else next(self._lines)
        self._taken.append(line)
        self._size += len(line) + 1
        if self._size > LINE_LIMIT + 1:
            raise StopIteration
        try:
            return line.decode() + "\n"
        except UnicodeDecodeError:
            self._utf8 = False
            return line.decode("utf-8", "surrogateescape") + "\n"

    def _literal(self, line: bytes) -> list[str] | Bad:
        if self._delimiter != "\t" or len(line) > LINE_LIMIT:
            return Bad.of(line)
        try:
            return line.decode().split("\t")
        except UnicodeDecodeError:
            return Bad.of(line)


@dataclass(frozen=True)
class _Texts:
    """An iterator out of a function that raises StopIteration."""

    following: Callable[[], str]

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return self.following()


def _csv_table(
    lines: Iterator[bytes], url: str, delimiter: str
) -> tuple[list[str], Iterator[Row | Bad]]:
    records = iter(_Records(lines, delimiter))
    header = next((record for record in records if record != []), None)
    if header is None:
        return [], iter(())
    if isinstance(header, Bad):
        raise SluiceError(f"the first line of {url} is no header", "write a line of column names")
    columns = [name.strip() for name in header]
    return columns, _csv_rows(records, columns, delimiter)


def _csv_rows(
    records: Iterator[list[str] | Bad], columns: Sequence[str], delimiter: str
) -> Iterator[Row | Bad]:
    for fields in records:
        if isinstance(fields, Bad):
            yield fields
        elif len(fields) == len(columns):
            yield dict(zip(columns, fields, strict=True))
        elif fields:
            yield Bad.of(delimiter.join(fields))
        elif len(columns) == 1:  # an empty line is a row only where a row is one field
            yield {columns[0]: ""}
