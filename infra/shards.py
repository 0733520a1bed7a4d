"""Shards: WebDataset tars read defensively and written byte for byte the same every time.

A sample is the run of tar members that share a key (the name up to the first dot). Reading
never unpacks to disk, follows no link, and takes only members whose extension is asked for.
"""

import bz2
import gzip
import lzma
import struct
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
MEMBER_LIMIT = 256 * 2**20  # bytes; a larger member is refused, not read

BLOCK = 512  # the unit of a tar: one header, or a piece of a member
CHUNK = 2**20
NAME_LIMIT = 2**20  # bytes of a long name or a pax header; more is no name
SHORT_NAME = 90  # characters; a longer name may stand in a header before the member's own
ZEROS = bytes(BLOCK)
MODE = 0o644
REGULAR, LINKS, EXTENDED = b"07\0", b"12", b"LKxg"
TAKEN = REGULAR + LINKS

# name, size, checksum, type, magic, prefix: POSIX.1-1988 (ustar), in one block
_FIELDS = struct.Struct("100s24x12s12x8sc100x6s82x155s12x")
_ADLER = 65521  # the low half of Adler-32 is 1 + the sum of the bytes, modulo this (RFC 1950)


@dataclass(slots=True)
class TarSample:
    """The members of one key, by extension; `error` where the tar broke off or misled.

    offsets: where the data of a member starts, for those that can be read there again: members of
    a tar that is not compressed, with a header that `is_member` knows again.
    """

    key: str
    members: Mapping[str, bytes]
    error: str | None = None
    offsets: Mapping[str, int] = field(default_factory=dict[str, int], compare=False)


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
        self._taken = 0  # bytes of the file below
        self.error: Exception | None = None

    @property
    def position(self) -> int:
        """Bytes read so far."""
        return self._taken - len(self._buffer) + self._at

    def read(self, size: int = CHUNK) -> bytes:
        """`size` bytes, fewer only at the end."""
        start, end = self._at, self._at + size
        if end > len(self._buffer):
            return self._read_across(size)
        self._at = end
        return self._buffer[start:end]

    def _read_across(self, size: int) -> bytes:
        pieces = [self._buffer[self._at :]]
        missing = size - len(pieces[0])
        self._at = len(self._buffer)
        while missing > 0 and self._next():
            pieces.append(self._buffer[:missing])
            self._at = len(pieces[-1])
            missing -= self._at
        data = b"".join(pieces)
        if self.error is not None and size and not data:
            raise self.error
        return data

    def _next(self) -> bool:
        """Take up the next chunk, the last one being used up; False at the end."""
        if self.error is not None:
            return False
        try:
            chunk = self._read(CHUNK)
        except Exception as error:
            self.error = error
            return False
        if chunk:
            self._taken += len(chunk)
            self._buffer, self._at = chunk, 0
        return bool(chunk)

    def peek(self, size: int) -> bytes:
        """What `read` would give, to be read again."""
        data = self.read(size)
        self._buffer, self._at = data + self._buffer[self._at :], 0
        return data

    def skip(self, size: int) -> bool:
        """Pass over `size` bytes; False where the stream ends before."""
        while size:
            passed = len(self.read(min(size, CHUNK)))
            if not passed:
                return False
            size -= passed
        return True


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


class _Header(NamedTuple):
    name: str
    size: int
    type: bytes
    own: bool = True  # `is_member` knows the member again by the block right before its data


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
    name, size, checksum, kind, magic, prefix = _FIELDS.unpack(block)
    total = _number(checksum) + sum(checksum) - len(checksum) * ord(" ")
    if zlib.adler32(block) & 0xFFFF != (1 + total) % _ADLER:  # sum(block) takes 15 times as long
        raise _DamagedError
    text = _text(name)
    if magic == b"ustar\0" and prefix[0]:
        text = f"{_text(prefix)}/{text}"
    if kind in REGULAR and text.endswith("/"):
        kind = b"5"  # how tars before POSIX mark a folder
    return _Header(text, _number(size), kind)


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
            if header.type in EXTENDED:
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
        if name or size >= 0:
            header, name, size = _renamed(header, name, size), "", -1
        yield header
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


def _renamed(header: _Header, name: str, size: int) -> _Header:
    """A member with the name and the size (-1: its own) that the headers before it gave."""
    name, size = name or header.name, size if size >= 0 else header.size
    return _Header(name, size, header.type, _fits(header, split_name(name)[0], size))


def _fits(header: _Header, key: str, size: int) -> bool:
    named = split_name(header.name)[0] == key or len(key) > SHORT_NAME or not key.isascii()
    return named and header.size == size and header.type in REGULAR


def is_member(block: bytes, key: str, size: int) -> bool:
    """Whether a block is the header of a file of `size` bytes that belongs to the sample `key`.

    A long name stands in a header of its own: of such a sample the size alone must fit.
    """
    try:
        return len(block) == BLOCK and _fits(_parse(block), key, size)
    except _DamagedError:
        return False


def _padded(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK


class _Group:
    """The sample being read."""

    def __init__(self, key: str | None = None) -> None:
        self.key = key
        self._members: dict[str, bytes] = {}
        self._offsets: dict[str, int] = {}

    def add(self, name: str, data: bytes, offset: int = -1) -> None:
        if name in self._members:
            name = f"{name}#2"
        self._members[name] = data
        if offset >= 0:
            self._offsets[name] = offset

    def sample(self, error: str | None = None) -> TarSample:
        return TarSample(self.key or "", self._members, error, self._offsets)


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
            hidden = header.name.rpartition("/")[2].startswith(".")
            if hidden or header.type not in TAKEN:
                if header.type not in LINKS and not stream.skip(_padded(header.size)):
                    raise _CutShortError
                continue
            key, extension = split_name(header.name)
            if key != group.key:
                if group.key is not None:
                    yield group.sample()
                group = _Group(key)
            _take(stream, header, extension, extensions, group, stream is source)
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
    plain: bool,
) -> None:
    """Read one member into its sample, or pass over it. plain: the tar is not compressed."""
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
        offset = stream.position if plain and header.own else -1
        data = stream.read(header.size)
        padding = _padded(header.size) - header.size
        if len(data) < header.size:
            raise _CutShortError
        group.add(extension, data, offset)
        if padding and len(stream.read(padding)) < padding:
            raise _CutShortError


class TarWriter:
    """Write members with fixed headers (ustar, mtime 0, uid 0): same input, same bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._written = 0

    def add(self, name: str, data: bytes) -> int:
        """Write a member; where its data starts."""
        header, padding = _header_bytes(name, len(data)), -len(data) % BLOCK
        start = self._written + len(header)
        self._write(b"".join((header, data, bytes(padding))))
        return start

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
