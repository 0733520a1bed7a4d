"""Shards: WebDataset tars read defensively and written byte for byte the same every time.

A sample is the run of tar members that share a key (the name up to the first dot). Reading
never unpacks to disk, follows no link, and takes only members whose extension is asked for.
"""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
MEMBER_LIMIT = 256 * 2**20  # bytes; a larger member is refused, not read

BLOCK = 512  # the unit of a tar: one header, or a piece of a member
CHUNK = 2**20
NAME_LIMIT = 2**20  # bytes of a long name or a pax header; more is no name
ZEROS = bytes(BLOCK)
MODE = 0o644
REGULAR, LINKS = b"07\0", b"12"


@dataclass(frozen=True)
class TarSample:
    """The members of one key, by extension; `error` where the tar broke off or misled."""

    key: str
    members: Mapping[str, bytes]
    error: str | None = None


def split_name(name: str) -> tuple[str, str]:
    """`a/b.c/000.seg.png` -> (`a/b.c/000`, `seg.png`), as WebDataset splits names."""
    folder, slash, base = name.rpartition("/")
    key, _, extension = base.partition(".")
    return folder + slash + key, extension.lower()


class _Stream:
    """Small reads out of large ones: most members cost no call of the file below.

    Where the file below fails, what came before is still given; `error` is then set.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._buffer = b""
        self._at = 0
        self.error: Exception | None = None

    def read(self, size: int = CHUNK) -> bytes:
        """`size` bytes, fewer only at the end."""
        end = self._at + size
        if end > len(self._buffer):
            self._fill(size)
            end = self._at + size
        data = self._buffer[self._at : end]
        self._at += len(data)
        if self.error is not None and size and not data:
            raise self.error
        return data

    def peek(self, size: int) -> bytes:
        self._fill(size)
        return self._buffer[self._at : self._at + size]

    def skip(self, size: int) -> bool:
        """Pass over `size` bytes; False where the stream ends before."""
        while size:
            passed = len(self.read(min(size, CHUNK)))
            if not passed:
                return False
            size -= passed
        return True

    def _fill(self, size: int) -> None:
        pieces = [self._buffer[self._at :]]
        held = len(pieces[0])
        while held < size and self.error is None:
            try:
                piece = self._read(max(size - held, CHUNK))
            except Exception as error:
                self.error = error
                break
            if not piece:
                break
            pieces.append(piece)
            held += len(piece)
        self._buffer, self._at = b"".join(pieces), 0


def _plain(stream: _Stream) -> _Stream:
    """The tar's bytes, whether the file holds them plain or as gzip, bzip2 or xz."""
    magic = stream.peek(6)
    if magic.startswith(b"\x1f\x8b"):
        return _Stream(gzip.GzipFile(fileobj=stream).read1)  # type: ignore[arg-type]
    if magic.startswith(b"BZh"):
        return _Stream(bz2.BZ2File(stream).read1)  # type: ignore[arg-type]
    if magic.startswith(b"\xfd7zXZ\0"):
        return _Stream(lzma.LZMAFile(stream).read1)  # type: ignore[arg-type]
    return stream


class _DamagedError(Exception):
    """Not a header where one must be."""


class _CutShortError(Exception):
    """The stream ended inside a header or a member."""


@dataclass(frozen=True)
class _Header:
    name: str
    size: int
    type: bytes


def _number(data: bytes) -> int:
    """Octal text, or base 256 where the first bit is set (GNU, for more than 8 GiB)."""
    if data[0] == 0x80:
        return int.from_bytes(data[1:], "big")
    try:
        value = int(data.rstrip(b" \0").lstrip() or b"0", 8)
    except ValueError as error:
        raise _DamagedError from error
    if value < 0:
        raise _DamagedError
    return value


def _text(data: bytes) -> str:
    # Bytes that are no UTF-8 become visible escapes: still one key for one name.
    return data.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def _parse(block: bytes) -> _Header:
    checksum = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if _number(block[148:156]) != checksum:
        raise _DamagedError
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{_text(block[345:500])}/{name}"
    kind = block[156:157]
    if kind in REGULAR and name.endswith("/"):
        kind = b"5"  # how tars before POSIX mark a folder
    return _Header(name, _number(block[124:136]), kind)


def _pax(data: bytes) -> dict[str, str]:
    """The records `LENGTH KEY=VALUE\\n` of an extended header."""
    records: dict[str, str] = {}
    while data.rstrip(b"\0"):
        digits, _, _ = data.partition(b" ")
        if not digits.isdigit() or not len(digits) < int(digits) <= len(data):
            raise _DamagedError
        key, _, value = data[len(digits) + 1 : int(digits) - 1].partition(b"=")
        records[_text(key)] = _text(value)
        data = data[int(digits) :]
    return records


def _members(stream: _Stream) -> Iterator[_Header | None]:
    """The headers in order, each with its data next in `stream`; None where one is damaged.

    After a damaged header the next whole one is sought. Blocks of zeros are passed over:
    they end a tar, but also fill the holes of a download that stopped in the middle.
    Raises _CutShortError where the stream ends without the zeros that close a tar.
    """
    closed, seeking, first = False, False, True
    name, size = "", -1
    while block := stream.read(BLOCK):
        if len(block) < BLOCK:
            if closed:
                return  # padding of an odd length
            raise _CutShortError
        if block == ZEROS:
            closed = True
            continue
        try:
            header = _parse(block)
            if seeking and block[257:262] != b"ustar":
                raise _DamagedError  # chance alone may fit a checksum, hardly this as well
            if header.type in b"LKxg":
                name, size = _extended(stream, header, name, size)
                seeking, first, closed = False, False, False
                continue
        except _DamagedError:
            if first:
                raise
            if not seeking:
                yield None
            seeking, closed = True, False
            name, size = "", -1
            continue
        seeking, first, closed = False, False, False
        yield _Header(name or header.name, size if size >= 0 else header.size, header.type)
        name, size = "", -1
    if not closed:
        raise _CutShortError


def _extended(stream: _Stream, header: _Header, name: str, size: int) -> tuple[str, int]:
    """What a long-name or pax header says of the member after it: its name, its size."""
    if header.size > NAME_LIMIT:
        raise _DamagedError
    data = stream.read(_padded(header.size))
    if len(data) < _padded(header.size):
        raise _CutShortError
    data = data[: header.size]
    if header.type == b"L":
        return _text(data), size
    if header.type == b"x":
        records = _pax(data)
        text = records.get("size", "")
        return records.get("path", name), int(text) if text.isdecimal() else size
    return name, size


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


@dataclass
class _Group:
    """The sample being read."""

    key: str | None = None
    members: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, data: bytes) -> None:
        if name in self.members:
            name = f"{name}#2"
        self.members[name] = data

    def sample(self, error: str | None = None) -> TarSample:
        return TarSample(self.key or "", self.members, error)


def read_tar(file: BinaryIO, extensions: Collection[str] | None = None) -> Iterator[TarSample]:
    """Yield the samples of a tar stream in order; `file` may be gzip, bzip2 or xz.

    Members whose extension is not in `extensions` are passed over, but their sample is
    yielded. Two of one extension under one key are `EXT` and `EXT#2`; a member over
    MEMBER_LIMIT is `EXT#too_large`, a link is `EXT#link`, both empty: the caller refuses them.
    Hidden files (a name that starts with a dot) are no samples.

    `error` is set on the sample in which the tar breaks: "truncated_tar" where the tar ends
    before its closing zeros, "damaged_tar" where no header stands in a header's place (reading
    goes on at the next whole header), "not_a_tar" where not even the first header is one. The
    members given with an error are whole, but others of that sample may be lost.
    """
    group, begun, source = _Group(), False, _Stream(file.read)
    try:
        stream = _plain(source)
        if not stream.peek(1):
            raise _DamagedError
        for header in _members(stream):
            begun = True
            if header is None:
                yield group.sample("damaged_tar")
                group = _Group()
                continue
            key, extension = split_name(header.name)
            hidden = header.name.rpartition("/")[2].startswith(".")
            if hidden or header.type not in REGULAR + LINKS:
                if header.type not in LINKS and not stream.skip(_padded(header.size)):
                    raise _CutShortError
                continue
            if key != group.key:
                if group.key is not None:
                    yield group.sample()
                group = _Group(key)
            _take(stream, header, extension, extensions, group)
    except (_DamagedError, _CutShortError, EOFError, OSError, zlib.error, lzma.LZMAError):
        if source.error is not None:
            raise source.error from None  # the disk or the network failed, not the tar
        yield group.sample("truncated_tar" if begun else "not_a_tar")
        return
    if group.key is not None:
        yield group.sample()


def _take(
    stream: _Stream,
    header: _Header,
    extension: str,
    wanted: Collection[str] | None,
    group: _Group,
) -> None:
    """Read one member into its sample, or pass over it."""
    asked = wanted is None or extension in wanted
    if header.type in LINKS:  # a link has no data of its own, whatever its size says
        if asked:
            group.add(f"{extension}#link", b"")
    elif header.size > MEMBER_LIMIT or not asked:
        if asked:
            group.add(f"{extension}#too_large", b"")
        if not stream.skip(_padded(header.size)):
            raise _CutShortError
    else:
        data = stream.read(header.size)
        padding = _padded(header.size) - header.size
        if len(data) < header.size:
            raise _CutShortError
        group.add(extension, data)
        if padding and len(stream.read(padding)) < padding:
            raise _CutShortError


class TarWriter:
    """Write members with fixed headers (ustar, mtime 0, uid 0): same input, same bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._written = 0

    def add(self, name: str, data: bytes) -> None:
        padding = _padded(len(data)) - len(data)
        self._write(b"".join((_header_bytes(name, len(data)), data, bytes(padding))))

    def close(self) -> None:
        """Close the tar (two blocks of zeros, up to a whole record), not the file."""
        end = self._written + 2 * BLOCK
        self._write(bytes(-(-end // tarfile.RECORDSIZE) * tarfile.RECORDSIZE - self._written))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._written += len(data)


def _header_bytes(name: str, size: int) -> bytes:
    """The header of a plain file; written here because tarfile takes 60 microseconds for it."""
    if len(name) > 100 or not name.isascii() or size >= 8**11:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, MODE
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    start = name.encode().ljust(100, b"\0") + b"%07o\0%07o\0%07o\0" % (MODE, 0, 0)
    start += b"%011o\0%011o\0" % (size, 0)
    rest = b"0".ljust(101, b"\0") + b"ustar\x0000"
    checksum = sum(start) + sum(rest) + 8 * ord(" ")
    return (start + b"%06o\0 " % checksum + rest).ljust(BLOCK, b"\0")
