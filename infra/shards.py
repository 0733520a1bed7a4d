"""Shards: WebDataset tars read defensively and written byte for byte the same every time.

A sample is the run of tar members that share a key (the name up to the first dot). Reading
never unpacks to disk, follows no link, and takes only members whose extension is asked for.
"""

import lzma
import re
import tarfile
import zlib
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from infra.tar import (
    BLOCK,
    LINKS,
    PAX,
    REGULAR,
    ZEROS,
    CutShortError,
    DamagedError,
    Header,
    State,
    Stream,
    members,
    parse,
    pax_records,
    unpacked,
)

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
MEMBER_LIMIT = 256 * 2**20  # bytes; a larger member is refused, not read
SHORT_NAME = 90  # characters; a longer name may stand in a header before the member's own
MODE = 0o644


@dataclass(slots=True)  # not frozen: that takes twice as long to make
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


def _hidden(name: str, key: str) -> bool:
    """Whether the last part of a name, split into a key, starts with a dot."""
    return name != "" and key[-1:] in ("", "/")


def is_member(block: bytes, key: str, size: int) -> bool:
    """Whether a block is the header of a file of `size` bytes that belongs to the sample `key`.

    A long name stands in a header of its own: of such a sample the size alone must fit.
    """
    try:
        return len(block) == BLOCK and _states(parse(block), key, size)
    except DamagedError:
        return False


def _states(stated: tuple[str, int, bytes], key: str, size: int) -> bool:
    name, length, kind = stated
    named = split_name(name)[0] == key or len(key) > SHORT_NAME or not key.isascii()
    return named and length == size and kind in REGULAR


@dataclass(slots=True)
class _Group:
    """The sample being read."""

    key: str | None
    members: dict[str, bytes]
    offsets: dict[str, int]

    def add(self, name: str, data: bytes, offset: int | None = None) -> None:
        if name in self.members:
            name = f"{name}#2"
        self.members[name] = data
        if offset is not None:
            self.offsets[name] = offset

    def sample(self, error: str | None = None) -> TarSample:
        return TarSample(self.key or "", self.members, error, self.offsets)


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
    group, state, source = _Group(None, {}, {}), State(), Stream(file.readinto)  # type: ignore[attr-defined]
    wanted = None if extensions is None else frozenset(extensions)
    try:
        stream = unpacked(source)
        if not stream.peek(1):
            raise DamagedError
        plain, headers = stream is source, members(stream, state)
        while True:
            group = yield from _read_ordinary(stream, state, group, wanted, plain)
            header = next(headers, _END)
            if header is _END:
                break
            if header is None:
                yield group.sample("damaged_tar")
                group = _Group(None, {}, {})
                continue
            key, extension = split_name(header.name)
            if _hidden(header.name, key) or header.type not in REGULAR + LINKS:
                stream.skip(0 if header.type in LINKS else header.size)
                continue
            if key != group.key:
                if group.key is not None:
                    yield group.sample()
                group = _Group(key, {}, {})
            _take(stream, header, extension, wanted, group, plain)
    except (DamagedError, CutShortError, EOFError, OSError, zlib.error, lzma.LZMAError):
        if source.error is not None:
            raise source.error from None  # the disk or the network failed, not the tar
        yield group.sample("not_a_tar" if state.first else "truncated_tar")
        return
    if group.key is not None:
        yield group.sample()


_END = Header("", 0, b"", ("", 0, b""))


def _take(
    stream: Stream,
    header: Header,
    extension: str,
    wanted: Collection[str] | None,
    group: _Group,
    plain: bool,
) -> None:
    """Read one member into its sample, or pass over it. plain: the tar is not compressed."""
    if wanted is not None and extension not in wanted:
        stream.skip(0 if header.type in LINKS else header.size)
    elif header.type in LINKS:  # a link has no data of its own, whatever its size says
        group.add(f"{extension}#link", b"")
    elif header.size > MEMBER_LIMIT:
        group.add(f"{extension}#too_large", b"")
        stream.skip(header.size)
    else:
        found_again = plain and _states(header.stated, group.key or "", header.size)
        offset = stream.before + stream.at if found_again else None
        group.add(extension, stream.take(header.size), offset)


def _read_ordinary(
    stream: Stream, state: State, group: _Group, wanted: Collection[str] | None, plain: bool
) -> Generator[TarSample, None, _Group]:
    """Read members as long as they are files, whole in the buffer, and told by one header.

    Most are. What happens to them here is what `members` and `_take` would do, at a third of the
    time. Returns the sample that is still open.
    """
    buffer, before, limit = stream.buffer, stream.before, stream.end
    begin = at = stream.at + -(before + stream.at) % BLOCK
    while at + BLOCK <= limit and not state.seeking:
        try:
            name, size, kind = parse(buffer[at : at + BLOCK])
        except DamagedError:
            break
        start, end = at + BLOCK, at + BLOCK + size
        after = end + -size % BLOCK
        if after > limit or size > MEMBER_LIMIT or kind not in _ORDINARY:
            break
        if kind == PAX and not _says_nothing(bytes(buffer[start:end])):
            break
        at = after
        if kind == PAX:
            continue
        key, extension = split_name(name)
        if (not key or key[-1] == "/") and _hidden(name, key):
            continue
        if key != group.key:
            if group.key is not None:
                yield group.sample()
            group = _Group(key, {}, {})
        if wanted is None or extension in wanted:
            group.add(extension, bytes(buffer[start:end]), before + start if plain else None)
    if at > begin:
        stream.at = at
        state.first = state.closed = False
    return group


_ORDINARY = REGULAR + PAX


# What Python writes for a time that is no whole second, before every member.
_ONLY_TIME = re.compile(rb"(\d+) mtime=[\d.]+\n")


def _says_nothing(data: bytes) -> bool:
    """Whether a pax header is whole and changes neither the name nor the size of its member."""
    only = _ONLY_TIME.fullmatch(data)
    if only is not None and int(only[1]) == len(data):
        return True
    try:
        records = pax_records(data)
    except DamagedError:
        return False
    return "path" not in records and "size" not in records


class TarWriter:
    """Write members with fixed headers (ustar, mtime 0, uid 0): same input, same bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._written = 0

    def add(self, name: str, data: bytes) -> int:
        """Write a member; where its data starts."""
        return self.add_all([(name, data)])

    def add_all(self, members: Iterable[tuple[str, bytes]]) -> int:
        """Write several members in one go; where the data of the first starts."""
        pieces: list[bytes] = []
        for name, data in members:
            pieces += (_header_bytes(name, len(data)), data, ZEROS[: -len(data) % BLOCK])
        start = self._written + len(pieces[0])
        self._write(b"".join(pieces))
        return start

    def add_raw(self, members: bytes | memoryview) -> None:
        """Write members as they stand in another tar, whole blocks."""
        self._write(members)

    def close(self) -> None:
        """Close the tar (two blocks of zeros, up to a whole record), not the file."""
        end = self._written + 2 * BLOCK
        self._write(bytes(-(-end // tarfile.RECORDSIZE) * tarfile.RECORDSIZE - self._written))

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._written += len(data)


def _header_bytes(name: str, size: int) -> bytes:
    """The header of a plain file; written here because tarfile takes 60 microseconds for it."""
    if len(name) > 100 or not name.isascii() or size >= 8**11:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, MODE
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    path, octal = name.encode(), b"%011o" % size
    checksum = sum(path) + sum(octal) + _FIXED_SUM
    filled = path + ZEROS[: 100 - len(path)]
    return b"%b%b%b%b%06o\0 %b" % (filled, _OWNER, octal, _TIME, checksum, _REST)


# What is the same in every header: mode, owner and group; time; type, magic and what follows.
_OWNER = b"%07o\0%07o\0%07o\0" % (MODE, 0, 0)
_TIME = b"\0%011o\0" % 0
_REST = (b"0".ljust(101, b"\0") + b"ustar\x0000").ljust(BLOCK - 156, b"\0")
_FIXED_SUM = sum(_OWNER) + sum(_TIME) + sum(_REST) + 8 * ord(" ")
