"""Block lists of uids, domains, URLs, hashes, as for Re-LAION: what is listed is never written."""

import csv
import gzip
import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation import outcomes
from curation.fetch import urls
from curation.fetch.blocklist_settings import BlocklistSettings
from curation.fetch.fingerprints import Digests, NearHashes
from curation.fetch.urls import Target
from infra import filesystem
from infra.digests import digest
from infra.errors import SluiceError

Entries = Mapping[str, bytes | bytearray]  # by kind of list: its entries, one after the other

WIDTH = 16  # bytes kept of a domain or a URL: 128 bits of BLAKE2b
TOLD = frozenset({"uid", "shard", "row", "source"})  # all that a listed sample's row still says
_COMMENT = re.compile(r"(?:^|\s)#.*")
_IN_TEXT = re.compile(r"""https?://[^\s"'<>\\^`{|}]+""", re.IGNORECASE)
_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")  # RFC 3986, 2.3


@dataclass(frozen=True)
class Blocklists:
    """The lists that were given. `digest` names what they hold, in whatever order or format."""

    digest: str
    uids: Digests | None = None
    domains: Digests | None = None
    urls: Digests | None = None
    md5: Digests | None = None
    sha256: Digests | None = None
    phash: NearHashes | None = None

    @classmethod
    def load(cls, settings: BlocklistSettings, entries: Sequence[Entries] = ()) -> "Blocklists":
        """Read all lists. SluiceError names the file and line of what is no entry.

        entries: of more lists, such as those of takedowns; `digest` does not name these.
        """
        read = read_entries(settings)
        known = {name: Digests(data, KINDS[name].width) for name, data in read.items()}
        content: dict[str, Any] = {name: members.sha256() for name, members in known.items()}
        near = None
        if "phash" in known:
            content["phash_distance"] = settings.phash_distance
            near = NearHashes(known["phash"].words(), settings.phash_distance)
        exact = cls.of([read, *entries])
        return replace(exact, digest=digest(content), phash=near)

    @classmethod
    def of(cls, entries: Sequence[Entries]) -> "Blocklists":
        """Of entries that were read before, of several lists together."""
        joined: dict[str, bytearray] = {}
        for each in entries:
            for name in EXACT & each.keys():
                joined.setdefault(name, bytearray()).extend(each[name])
        known = {name: Digests(joined[name], KINDS[name].width) for name in joined}
        return cls("", **{name: known.get(name) for name in EXACT}, phash=None)

    @property
    def empty(self) -> bool:
        """Whether no list was given."""
        lists = (self.uids, self.domains, self.urls, self.md5, self.sha256, self.phash)
        return all(members is None for members in lists)

    def lists_uid(self, uid: str) -> bool:
        """Whether the sample with this uid, 32 hex characters, is listed."""
        return self.uids is not None and bytes.fromhex(uid) in self.uids

    def lists_url(self, url: str | Target) -> bool:
        """Whether the URL is listed, under http or https, or its host lies in a listed domain."""
        if self.urls is None and self.domains is None:
            return False
        target = urls.parse(url) if isinstance(url, str) else url
        if target is None:
            return False
        if self.urls is not None and url_key(target) in self.urls:
            return True
        if self.domains is None:
            return False
        return any(_key(name) in self.domains for name in urls.domains(target.host))

    def lists_line(self, line: str) -> bool:
        """Whether a URL is listed that stands in a line, of a table, that is no row."""
        if self.urls is None and self.domains is None:
            return False
        found = _IN_TEXT.findall(line.replace("\\/", "/"))  # JSON may write a slash so
        # A comma may end a URL, or belong to it.
        return any(self.lists_url(each) or self.lists_url(each.partition(",")[0]) for each in found)

    def lists_bytes(self, data: bytes) -> bool:
        """Whether the file with these bytes is listed by its MD5 or SHA-256."""
        if self.md5 is not None:
            hashed = hashlib.md5(data, usedforsecurity=False).digest()
            if hashed in self.md5:
                return True
        return self.sha256 is not None and hashlib.sha256(data).digest() in self.sha256

    def lists_phash(self, value: int) -> bool:
        """Whether a listed perceptual hash (`scores.hash.phash`) lies within the distance."""
        return self.phash is not None and self.phash.close_to(value)


def blocked_row(row: Mapping[str, Any], reason: str = outcomes.BLOCKLISTED) -> dict[str, Any]:
    """The row of a listed sample: that it was listed, and where it stood; nothing of itself."""
    told = {name: value if name in TOLD else None for name, value in row.items()}
    return told | {"status": "rejected", "reason": reason}


def url_key(target: Target) -> bytes:
    """128 bits of a URL less its scheme; equal for what is equal by RFC 3986, section 6.2.2."""
    path = _ENCODED.sub(_plainest, target.path) if "%" in target.path else target.path
    default = target.port == urls.PORTS[target.scheme]
    return _key((target.host if default else f"{target.host}:{target.port}") + path)


def _plainest(encoded: re.Match[str]) -> str:
    char = chr(int(encoded[0][1:], 16))
    return char if _UNRESERVED.match(char) else encoded[0].upper()


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=WIDTH).digest()


# ---- entries ----


def _domain(value: Any) -> bytes | None:
    """A host, or *.host, which means the same."""
    target = urls.parse(f"http://{str(value).removeprefix('*').removeprefix('.')}/")
    whole = target is not None and (target.path, target.port) == ("/", 80)
    return _key(target.host) if target is not None and whole else None


def _url(value: Any) -> bytes | None:
    target = urls.parse(str(value))
    return None if target is None else url_key(target)


def _hex(width: int) -> Callable[[Any], bytes | None]:
    """Hexadecimal digits, or the bytes themselves."""

    def parsed(value: Any) -> bytes | None:
        if not isinstance(value, bytes):
            try:
                value = bytes.fromhex(str(value)) if len(str(value)) == 2 * width else b""
            except ValueError:
                return None
        return value if len(value) == width else None

    return parsed


def _phash(value: Any) -> bytes | None:
    if isinstance(value, int):
        return value.to_bytes(8, "big") if 0 <= value < 1 << 64 else None
    return _hex(8)(value)


@dataclass(frozen=True)
class Kind:
    """What the entries of a list look like."""

    column: str
    what: str
    width: int
    parsed: Callable[[Any], bytes | None]


KINDS = {
    "uids": Kind("uid", "uid of 32 hexadecimal digits", 16, _hex(16)),
    "domains": Kind("domain", "domain", WIDTH, _domain),
    "urls": Kind("url", "http or https URL", WIDTH, _url),
    "md5": Kind("md5", "MD5 of 32 hexadecimal digits", 16, _hex(16)),
    "sha256": Kind("sha256", "SHA-256 of 64 hexadecimal digits", 32, _hex(32)),
    "phash": Kind("phash", "perceptual hash of 16 hexadecimal digits", 8, _phash),
}


EXACT = KINDS.keys() - {"phash"}

# ---- files ----


def read_entries(settings: BlocklistSettings) -> dict[str, bytearray]:
    """The entries of the lists that were given, by kind; SluiceError for what is none."""
    named = {name: getattr(settings, name) for name in KINDS}
    return {
        name: _read(name, KINDS[name], location)
        for name, location in named.items()
        if location is not None
    }


def read_hashes(location: str) -> dict[str, bytearray]:
    """A list of SHA-256 and MD5 together, in a column `hash`, as lists of each."""
    found: dict[str, bytearray] = {}
    kind = Kind("hash", "SHA-256 or MD5 in hexadecimal digits", 0, _hash)
    for entry in _read_each("hashes", kind, location):
        name = "md5" if len(entry) == KINDS["md5"].width else "sha256"
        found.setdefault(name, bytearray()).extend(entry)
    return found


def _hash(value: Any) -> bytes | None:
    return KINDS["sha256"].parsed(value) or KINDS["md5"].parsed(value)


def _read(name: str, kind: Kind, location: str) -> bytearray:
    """The entries of all files of a list, one after the other."""
    data = bytearray()
    for entry in _read_each(name, kind, location):
        data += entry
    return data


def _read_each(name: str, kind: Kind, location: str) -> Iterator[bytes]:
    some, files = False, filesystem.list_files(location)
    for url in files:
        for place, value in _values(url, kind.column):
            entry = kind.parsed(value)
            if entry is None:
                raise SluiceError(
                    f"{url}, {place}: {str(value)[:100]!r} is no {kind.what}",
                    f"correct it, or take it out of the list `{name}`",
                )
            some = True
            yield entry
    if not some:
        what = "is empty" if files else "does not exist"
        raise SluiceError(
            f"the list `{name}` at {location} {what}", "correct its path, or leave it out"
        )


def _values(url: str, column: str) -> Iterator[tuple[str, Any]]:
    """Pairs of place ("line 3") and value; what cannot be read is a SluiceError."""
    try:
        with filesystem.open_read(url) as raw:
            if url.endswith(".parquet"):
                yield from _parquet_values(pq.ParquetFile(raw), url, column)
                return
            packed = url.endswith(".gz")
            lines = _decoded(gzip.GzipFile(fileobj=raw) if packed else raw, url)
            table = url.removesuffix(".gz").endswith(".csv")
            yield from _csv_values(lines, url, column) if table else _text_values(lines)
    except (OSError, EOFError, zlib.error, csv.Error, pa.ArrowException) as error:
        raise SluiceError(
            f"cannot read the block list {url}: {error}", "fetch or write it again"
        ) from error


def _decoded(lines: Iterable[bytes], url: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise SluiceError(
                f"{url}, line {number}: no UTF-8 text", "write the block list in UTF-8"
            ) from error


def _text_values(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, 1):
        value = (_COMMENT.sub("", line) if "#" in line else line).strip()
        if value:
            yield f"line {number}", value


def _csv_values(lines: Iterable[str], url: str, column: str) -> Iterator[tuple[str, str]]:
    reader = csv.reader(lines)
    index = _index(next(reader, []), url, column)
    for cells in reader:
        value = cells[index].strip() if index < len(cells) else ""
        if value:
            yield f"line {reader.line_num}", value


def _parquet_values(file: pq.ParquetFile, url: str, column: str) -> Iterator[tuple[str, Any]]:
    names: list[str] = file.schema_arrow.names
    name = names[_index(names, url, column)]
    row = 0
    # On this thread alone, as `infra.dataset.read_table` says.
    for batch in file.iter_batches(columns=[name], use_threads=False):
        for value in batch.column(0).to_pylist():
            row += 1
            if value is not None and value != "":
                yield f"row {row}", value


def _index(names: list[str], url: str, column: str) -> int:
    """Where the column stands, in capital letters or not."""
    for index, name in enumerate(names):
        if name.strip().lower() == column:
            return index
    raise SluiceError(
        f"{url} has no column {column!r}; it has {', '.join(names) or 'none'}",
        "name the block list's column so",
    )
