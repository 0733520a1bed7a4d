"""Files and samples of one artifact taken over into another, without looking into them."""

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from infra import filesystem
from infra.errors import SluiceError
from infra.filesystem import FilePart, join
from infra.filesystem.retries import ask
from infra.shards import TarWriter
from infra.tar import BLOCK

WINDOW = 8 * 2**20  # bytes of a tar in memory; more only for an image that is larger
MORE = 2**16  # bytes read on behind an image, for the other members of its sample


def take_over(source: str, folder: str, file: FilePart) -> FilePart:
    """The file `file.path` of the folder `source` in `folder`, too; its hash is known.

    On a disk both are one file with two names, as far as it allows that: files of artifacts never
    change. An object store copies on its own side.
    """
    here, there = join(source, file.path), join(folder, file.path)
    try:
        if filesystem.is_local(here) and filesystem.is_local(there):
            _link(Path(filesystem.resolve(here)[1]), Path(filesystem.resolve(there)[1]))
        else:
            target = filesystem.resolve(there)[1]
            ask(here, "copy", lambda fs, path: fs.cp_file(path, target), verb="copy")
    except FileNotFoundError as error:
        raise SluiceError(
            f"{here} is gone", "bring it back, or remove that version's folder and run again"
        ) from error
    except OSError as error:
        raise SluiceError(
            f"cannot write {there}: {error.strerror or error}",
            "free space or fix the permissions, then run the same command again",
        ) from error
    return file


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        try:
            os.link(source, target)
        except FileExistsError:
            raise
        except FileNotFoundError:
            raise
        except OSError:  # another disk, or one without links
            staged = target.with_name(f".{target.name}-{os.getpid()}")
            shutil.copyfile(source, staged)
            staged.replace(target)


class Place(NamedTuple):
    """Where a sample lies in a tar: its key, the byte its image starts at, its image's bytes."""

    key: str
    offset: int
    bytes: int


def copy_samples(url: str, places: Iterable[Place], tar: TarWriter, start: int) -> list[int]:
    """Copy samples, all their members, from the tar at `url`; where their images are then.

    places: by ascending offset. start: the bytes that `tar` has already. What lies between them is
    left out; what lies together is written together. For tars of ours: an image comes first, its
    other files after it. SluiceError where a sample is not at its place.
    """
    found: list[int] = []
    with contextlib.closing(_open(url)) as file:
        window = _Window(file, tar)
        for place in places:
            begin = place.offset - BLOCK
            size = window.measure(place, begin, url)
            found.append(start + BLOCK)
            start += size
            window.keep(begin, size)
        window.flush()
    return found


def _open(url: str) -> BinaryIO:
    try:
        return filesystem.open_read(url)
    except FileNotFoundError as error:
        raise SluiceError(
            f"{url} is gone, and samples lie in it", "bring it back, then run the same command"
        ) from error


class _Window:
    """Some bytes of a tar, and the run of them that is to be written next."""

    def __init__(self, file: BinaryIO, tar: TarWriter) -> None:
        self._file, self._tar = file, tar
        self._data, self._at, self._end = b"", 0, False
        self._first = self._last = 0

    def measure(self, place: Place, begin: int, url: str) -> int:
        """The bytes of a sample's members, headers and padding included, from `begin` on."""
        mark, size = f"{place.key}.".encode(), BLOCK + _whole(place.bytes)
        more = MORE
        while True:
            at = self._ensure(begin, size + more)
            data, after = self._data, at + size
            if not data.startswith(mark, at) or _size(data, at) != place.bytes:
                raise SluiceError(
                    f"{url} is damaged: the image of {place.key!r} is not at byte {place.offset}",
                    "bring the tar back as it was, then run the same command again",
                )
            while data.startswith(mark, after):
                after += BLOCK + _whole(_size(data, after))
            if after + BLOCK <= len(data) or self._end:
                return after - at
            more *= 4

    def _ensure(self, begin: int, size: int) -> int:
        """Have these bytes of the tar at hand, as far as it has them; where they begin there."""
        at = begin - self._at
        if at < 0 or (at + size > len(self._data) and not self._end):
            self.flush()
            wanted = max(size, WINDOW)
            self._file.seek(begin)
            self._data, self._at = self._file.read(wanted), begin
            self._end = len(self._data) < wanted
            return 0
        return at

    def keep(self, begin: int, size: int) -> None:
        """Write these bytes, which are at hand, with those before them where they are next."""
        if begin != self._last:
            self.flush()
            self._first = begin
        self._last = begin + size

    def flush(self) -> None:
        """Write the run; the next one begins anywhere."""
        if self._last > self._first:
            view = memoryview(self._data)
            self._tar.add_raw(view[self._first - self._at : self._last - self._at])
        self._first = self._last


def _whole(size: int) -> int:
    return size + -size % BLOCK


def _size(data: bytes, header: int) -> int:
    """The size that a header of ours states; -1 where none can stand there."""
    try:
        return int(data[header + 124 : header + 135], 8)
    except ValueError:
        return -1
