"""Files and samples of one artifact taken over into another, without looking into them."""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

import contextlib
import itertools
import os
import shutil
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from numpy.lib.stride_tricks import sliding_window_view

from infra import filesystem
from infra.errors import SluiceError
from infra.filesystem import FilePart, join
from infra.filesystem.retries import ask
from infra.shards import TarWriter
from infra.tar import BLOCK

WINDOW = 8 * 2**20  # bytes of a tar in memory; more only for a sample that is larger
NOWHERE = 2**60  # a byte beyond the end of every file
NAME, _SIZE = 100, slice(124, 135)  # of a header: the bytes of a name, and where its size stands
_POWERS = 8 ** np.arange(10, -1, -1)  # of its octal digits

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]


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


class Places(NamedTuple):
    """Where samples lie in a tar, by ascending offset.

    keys: strings. offsets: the bytes their images start at. sizes: the bytes of their images.
    """

    keys: pa.Array
    offsets: Ints
    sizes: Ints


def copy_samples(url: str, places: Places, tar: TarWriter, start: int) -> Ints:
    """Copy samples, all their members, from the tar at `url`; where their images are then.

    start: the bytes that `tar` has already. What lies between the samples is left out; what lies
    together is written together. For tars of ours: an image comes first, its other files after it.
    SluiceError where a sample is not at its place, or not whole.
    """
    found, done = np.empty_like(places.offsets), 0
    with contextlib.closing(_open(url)) as file:
        source = _Source(file, url, places)
        while done < len(found):
            data, begins, ends = source.window(done)
            seams = [0, *np.flatnonzero(begins[1:] != ends[:-1]) + 1, len(ends)]
            for low, high in itertools.pairwise(seams):
                tar.add_raw(data[begins[low] : ends[high - 1]])
            after = start + np.cumsum(ends - begins)
            found[done : done + len(ends)] = after - (ends - begins) + BLOCK
            start, done = int(after[-1]), done + len(ends)
    return found


def _open(url: str) -> BinaryIO:
    try:
        return filesystem.open_read(url)
    except FileNotFoundError as error:
        raise SluiceError(
            f"{url} is gone, and samples lie in it", "bring it back, then run the same command"
        ) from error


class _Source:
    """A tar with samples at known places, read as many at a time as a window holds whole."""

    def __init__(self, file: BinaryIO, url: str, places: Places) -> None:
        self._file, self._url, self._places = file, url, places
        self._begins, ends = places.offsets - BLOCK, places.offsets + _whole(places.sizes)
        self._length, self._buffer = file.seek(0, os.SEEK_END), bytearray(WINDOW)
        marks, lengths = _marks(places.keys)
        lost = (self._begins < 0) | (ends + BLOCK > self._length) | (lengths > NAME)
        self._refuse(lost, 0)
        self._width = int(lengths.max(initial=0))
        # The marks as rows of one width, and which bytes only fill these up.
        self._filling: Mask = np.arange(self._width) >= lengths[:, None]
        self._marks = np.zeros((len(lengths), self._width), np.uint8)
        self._marks[~self._filling] = marks

    def window(self, done: int) -> tuple[memoryview, Ints, Ints]:
        """A piece of the tar; where in it the samples from `done` on begin, and where they end."""
        first, size = int(self._begins[done]), WINDOW
        left = self._length - first
        while True:
            data = self._read(first, min(size, left), done)
            last = np.searchsorted(self._begins, first + len(data) - BLOCK, "right")
            chosen = np.arange(done, last)
            begins = self._begins[chosen] - first
            ends = self._ends(data, begins, chosen)
            self._refuse(ends + BLOCK > left, done)  # a tar ends with zeros
            whole = ends + BLOCK <= len(data)  # the block behind a sample is none of its own
            count = len(whole) if whole.all() else int(whole.argmin())
            if count:
                return data, begins[:count], ends[:count]
            size = max(2 * size, int(ends[0]) + BLOCK)

    def _read(self, first: int, size: int, done: int) -> memoryview:
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        data = memoryview(self._buffer)[:size]
        self._file.seek(first)
        self._refuse(np.array([self._file.readinto(data) < size]), done)  # type: ignore[attr-defined]
        return data

    def _ends(self, data: memoryview, begins: Ints, chosen: Ints) -> Ints:
        """Where the chosen samples end, as far as their headers lie in `data`."""
        headers = sliding_window_view(np.frombuffer(data, np.uint8), _SIZE.stop)  # one at each byte
        sizes = self._stated(headers[begins], chosen)
        there = sizes == self._places.sizes[chosen]
        ends = np.where(there, begins + BLOCK + _whole(sizes), NOWHERE)
        more = np.arange(len(ends))  # of these samples another file may follow
        while more.size:
            more = more[ends[more] + BLOCK <= len(data)]
            sizes = self._stated(headers[ends[more]], chosen[more])
            more, sizes = more[sizes >= 0], sizes[sizes >= 0]
            ends[more] += BLOCK + _whole(sizes)
        return ends

    def _stated(self, headers: Bytes, chosen: Ints) -> Ints:
        """The sizes that headers state, one of each chosen sample.

        NOWHERE for one that states none, -1 for what is no header of that sample.
        """
        same = headers[:, : self._width] == self._marks[chosen]
        named = (same | self._filling[chosen]).all(axis=1)
        digits = headers[:, _SIZE] - np.uint8(ord("0"))
        sizes = np.where((digits < 8).all(axis=1), digits @ _POWERS, NOWHERE)
        return np.where(named, sizes, -1)

    def _refuse(self, wrong: Mask, done: int) -> None:
        """SluiceError where something is wrong with a sample, counted from `done` on."""
        if wrong.any():
            number = done + int(wrong.argmax())
            key, offset = self._places.keys[number].as_py(), self._places.offsets[number]
            raise SluiceError(
                f"{self._url} is damaged: the sample {key!r}, with its image at byte {offset}, is "
                "not there, or not whole",
                "bring the tar back as it was, then run the same command again",
            )


def _marks(keys: pa.Array) -> tuple[Bytes, Ints]:
    """What the names of each sample's files begin with, `KEY.`: all together, and the lengths."""
    _, starts, text = pc.binary_join_element_wise(keys, "", ".").buffers()
    starts = np.frombuffer(starts, np.int32)[: len(keys) + 1].astype(np.int64)
    return np.frombuffer(text, np.uint8)[: starts[-1]], np.diff(starts)


def _whole(sizes: Ints) -> Ints:
    return sizes + -sizes % BLOCK
