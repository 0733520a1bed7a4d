"""A tar as a stream: blocks, headers and the data behind them, whatever is in it.

POSIX.1-1988 (ustar), pax and GNU long names, plain or as gzip, bzip2 or xz.
"""

import bz2
import functools
import gzip
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

BLOCK = 512  # the unit of a tar: one header, or a piece of a member
CHUNK = 2**20  # bytes read at once; smaller ones cost 7 microseconds a sample of 60 kB more
NAME_LIMIT = 2**20  # bytes of a long name or a pax header; more is no name
NUMBER_LIMIT = 20  # digits of a number in a pax header; int() itself refuses thousands
ZEROS = bytes(BLOCK)
REGULAR, LINKS, PAX, EXTENDED = b"07\0", b"12", b"x", b"LKxg"

# name, size, checksum, type, magic, prefix
_FIELDS = struct.Struct("100s24x12s12x8sc100x6s82x155s12x")
_ADLER = 65521  # the low half of an Adler-32 is 1 + the sum of all bytes modulo this (RFC 1950)


class DamagedError(Exception):
    """Not a header where one must be."""


class CutShortError(Exception):
    """The stream ended inside a header or a member."""


class Stream:
    """Small reads out of large ones: most members cost no call of the file below.

    buffer[at:end] is what was read ahead, after `before` bytes of the file. The buffer is one
    piece of memory, filled again and again. Where the file below fails, what came before is still
    given; `error` is then set.
    """

    def __init__(self, readinto: Callable[[memoryview], int]) -> None:
        self._readinto = readinto
        self.buffer = memoryview(bytearray(CHUNK))
        self.at = self.end = self.before = 0
        self.error: Exception | None = None

    def read(self, size: int = CHUNK) -> bytes:
        """`size` bytes, fewer only at the end."""
        start, self.at = self.at, self.at + size
        if self.at <= self.end:
            return bytes(self.buffer[start : self.at])
        self.at = start
        return self._read_on(size)

    def _read_on(self, size: int) -> bytes:
        pieces, missing = [b""], size
        while missing > self.end - self.at:
            if self.end - self.at == CHUNK:
                pieces.append(self.read(CHUNK))
                missing -= CHUNK
            elif not self._fill():
                break
        pieces.append(self.read(min(missing, self.end - self.at)))
        data = b"".join(pieces)
        if self.error is not None and size and not data:
            raise self.error
        return data

    def _fill(self) -> bool:
        """Move what is left to the front and read on behind it; False at the end."""
        if self.error is not None:
            return False
        left = self.end - self.at
        self.buffer[:left] = self.buffer[self.at : self.end]
        self.before += self.at
        self.at, self.end = 0, left
        try:
            count = self._readinto(self.buffer[left:])
        except Exception as error:
            self.error = error
            return False
        self.end += count
        return count > 0

    def peek(self, size: int) -> bytes:
        """What `read` would give, to be read again; at most CHUNK bytes."""
        data = self.read(size)
        self.at -= len(data)
        return data

    def block(self) -> bytes:
        """The next block, from a multiple of BLOCK on; shorter, or empty, only at the end."""
        padding = -(self.before + self.at) % BLOCK
        if padding and len(self.read(padding)) < padding:
            return b""
        return self.read(BLOCK)

    def take(self, size: int) -> bytes:
        """`size` bytes; raises CutShortError where the stream ends before."""
        data = self.read(size)
        if len(data) < size:
            raise CutShortError
        return data

    def skip(self, size: int) -> None:
        """Pass over `size` bytes; raises CutShortError where the stream ends before."""
        while size:
            size -= len(self.take(min(size, CHUNK)))


def unpacked(stream: Stream) -> Stream:
    """The tar's bytes, whether the file holds them plain or as gzip, bzip2 or xz."""
    magic = stream.peek(6)
    if magic.startswith(b"\x1f\x8b"):
        return Stream(gzip.GzipFile(fileobj=stream).readinto1)  # type: ignore[arg-type]
    if magic.startswith(b"BZh"):
        return Stream(bz2.BZ2File(stream).readinto1)  # type: ignore[arg-type]
    if magic.startswith(b"\xfd7zXZ\0"):
        return Stream(lzma.LZMAFile(stream).readinto1)  # type: ignore[arg-type]
    return stream


def _number(data: bytes) -> int:
    """Octal text, or base 256 where the first bit is set (GNU, for more than 8 GiB)."""
    if data[0] == 0x80:
        return int.from_bytes(data[1:], "big")
    try:
        value = int(data.rstrip(b" \0") or b"0", 8)
    except ValueError as error:
        raise DamagedError from error
    if value < 0:
        raise DamagedError
    return value


def _text(data: bytes) -> str:
    # Bytes that are no UTF-8 become visible escapes: still one key for one name.
    return data.partition(b"\0")[0].decode("utf-8", "backslashreplace")


@functools.lru_cache(4096)
def _adler(checksum: bytes) -> int:
    """The low half of a whole header's Adler-32; its checksum counts its own bytes as spaces."""
    return (1 + _number(checksum) + sum(checksum) - len(checksum) * ord(" ")) % _ADLER


def parse(block: bytes | memoryview) -> tuple[str, int, bytes]:
    """Name, size and type of a header; raises DamagedError where the block is none."""
    name, size, checksum, kind, magic, prefix = _FIELDS.unpack(block)
    if zlib.adler32(block) & 0xFFFF != _adler(checksum):  # sum(block) takes 15 times as long
        raise DamagedError
    text = name.partition(b"\0")[0].decode("utf-8", "backslashreplace")  # as _text, uncalled
    if prefix[0] and magic == b"ustar\0":
        text = f"{_text(prefix)}/{text}"
    if text[-1:] == "/" and kind in REGULAR:
        kind = b"5"  # how tars before POSIX mark a folder
    return text, _number(size), kind


def pax_records(data: bytes) -> dict[str, str]:
    """The records `LENGTH KEY=VALUE\\n` of an extended header; raises DamagedError."""
    records: dict[str, str] = {}
    at, end = 0, len(data.rstrip(b"\0"))
    while at < end:
        digits = data[at : at + NUMBER_LIMIT].partition(b" ")[0]
        if not digits.isdigit() or not len(digits) < int(digits) <= len(data) - at:
            raise DamagedError
        key, _, value = data[at + len(digits) + 1 : at + int(digits) - 1].partition(b"=")
        records[_text(key)] = _text(value)
        at += int(digits)
    return records


class Header(NamedTuple):
    """A member's name, size and type; `stated` are those in the block right before its data."""

    name: str
    size: int
    type: bytes
    stated: tuple[str, int, bytes]


@dataclass
class State:
    """What stood before the block that is read next."""

    first: bool = True  # nothing yet
    seeking: bool = False  # no header where one had to be, and none since
    closed: bool = False  # zeros, which end a tar

    def whole(self) -> None:
        """A header, and its data."""
        self.first = self.seeking = self.closed = False


def members(stream: Stream, state: State) -> Iterator[Header | None]:
    """The headers in order, each with its data next in `stream`; None where one is damaged.

    After a damaged header the next whole one is sought. Blocks of zeros are passed over:
    they end a tar, but also fill the holes of a download that stopped in the middle.
    Raises CutShortError where the stream ends without the zeros that close a tar.
    """
    name, size = "", -1
    while block := stream.block():
        if len(block) < BLOCK:
            if state.closed:
                return  # padding of an odd length
            raise CutShortError
        if block == ZEROS:
            state.closed = True
            continue
        try:
            stated = parse(block)
            if state.seeking and block[257:262] != b"ustar":
                raise DamagedError  # chance alone may fit a checksum, hardly this as well
            if stated[2] in EXTENDED:
                name, size = _extended(stream, stated, name, size)
                state.whole()
                continue
        except DamagedError:
            if state.first:
                raise
            known = state.seeking
            state.seeking, state.closed = True, False
            name, size = "", -1
            if not known:
                yield None
            continue
        state.whole()
        yield Header(name or stated[0], size if size >= 0 else stated[1], stated[2], stated)
        name, size = "", -1
    if not state.closed:
        raise CutShortError


def _extended(
    stream: Stream, stated: tuple[str, int, bytes], name: str, size: int
) -> tuple[str, int]:
    """What a long-name or pax header says of the member after it: its name, its size."""
    _, length, kind = stated
    if length > NAME_LIMIT:
        raise DamagedError
    data = stream.take(length)
    if kind == b"L":
        return _text(data), size
    if kind == PAX:
        records = pax_records(data)
        text = records.get("size", "")
        known = text.isdecimal() and len(text) <= NUMBER_LIMIT
        return records.get("path", name), int(text) if known else size
    return name, size
