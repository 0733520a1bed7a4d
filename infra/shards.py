"""Shards: WebDataset tars read defensively and written byte for byte the same every time.

A sample is the run of tar members that share a key (the name up to the first dot). Reading
never unpacks to disk, follows no link, and takes only members whose extension is asked for.
"""

import io
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
MEMBER_LIMIT = 256 * 2**20  # bytes; a larger member is refused, not read


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


def read_tar(file: BinaryIO) -> Iterator[TarSample]:
    """Yield the samples of a tar stream in order.

    A repeated extension under one key is kept as `EXT`, `EXT#2`, ... so that the caller can
    refuse it. A tar cut short yields its whole samples, then one with `error` set:
    "truncated_tar" (its key is the sample it broke in) or "not_a_tar".
    """
    key: str | None = None
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            for info in tar:
                if not info.isfile() or info.name.startswith(("/", "..")):
                    continue
                next_key, extension = split_name(info.name)
                if next_key != key:
                    if key is not None:
                        yield TarSample(key, members)
                    key, members = next_key, {}
                if info.size > MEMBER_LIMIT:
                    members[f"{extension}#too_large"] = b""
                    continue
                stream = tar.extractfile(info)
                data = stream.read() if stream else b""
                if len(data) < info.size:
                    raise tarfile.ReadError("unexpected end of data")
                name, copy = extension, 1
                while name in members:
                    copy += 1
                    name = f"{extension}#{copy}"
                members[name] = data
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the network failed, not the tar
        broken = "not_a_tar" if key is None else "truncated_tar"
        yield TarSample(key or "", members, broken)
        return
    if key is not None:
        yield TarSample(key, members)


class TarWriter:
    """Write members with fixed headers (ustar, mtime 0, uid 0): same input, same bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._tar = tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT)

    def add(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        info.mode = 0o644
        self._tar.addfile(info, io.BytesIO(data))

    def close(self) -> None:
        self._tar.close()
