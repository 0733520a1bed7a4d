"""A folder on this machine that keeps files of remote stores, bounded in size.

    SLUICE_CACHE=/nvme/sluice:200GB        in the environment, or `run.cache` of a recipe

Who reads the same shards again (the epochs of a training run, one score after another) then fetches
them once. A file is kept under its SHA-256 where a manifest tells it, else under what the store
says of it (size, entity tag): a changed file is another one. The first time a process opens a kept
file it hashes it; one that is damaged is fetched anew.

    <folder>/files/<key>     whole files; the one not read for the longest goes first
    <folder>/coming/<key>    being fetched, locked by who fetches it; counted with the others

Any number of processes may share the folder. A disk that is full or fails turns the cache off for
the process, with one line that says so; the work goes on without it.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from infra import artifacts, filesystem
from infra.digests import digest
from infra.errors import SluiceError
from infra.filesystem import FilePart, join

VARIABLE = "SLUICE_CACHE"
BLOCK = 2**22  # bytes read and written at a time
_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
_SETTING = re.compile(r"(?P<folder>.+):(?P<size>[0-9.]+) ?(?P<unit>MB|GB|TB)")

_off = False  # whether this process goes on without, because the disk failed
_sound: dict[str, tuple[int, int, int]] = {}  # kept files that this process has hashed


@dataclass(frozen=True)
class Setting:
    """Where the cache is, and how many bytes it may hold."""

    folder: Path
    size: int


def parse(value: str) -> Setting:
    """FOLDER:SIZE, such as /nvme/sluice:200GB; raises SluiceError."""
    match = _SETTING.fullmatch(value)
    try:
        size = int(float(match["size"]) * _UNITS[match["unit"]]) if match else 0
    except ValueError:
        size = 0
    if match is None or size <= 0 or not Path(match["folder"]).is_absolute():
        raise SluiceError(
            f"the shard cache {value!r} is not FOLDER:SIZE",
            "give an absolute path and a size in MB, GB or TB, such as /nvme/sluice:200GB",
        )
    return Setting(Path(match["folder"]), size)


def setting() -> Setting | None:
    """What the environment asks for; None for no cache, and after a failure of its disk."""
    value = os.environ.get(VARIABLE)
    return parse(value) if value and not _off else None


@contextlib.contextmanager
def used(value: str) -> Iterator[None]:
    """With the cache FOLDER:SIZE, here and in processes started meanwhile; "" changes nothing."""
    before = os.environ.get(VARIABLE)
    if value:
        parse(value)
        os.environ[VARIABLE] = value
    try:
        yield
    finally:
        if value and before is None:
            del os.environ[VARIABLE]
        elif value:
            os.environ[VARIABLE] = str(before)


def open_cached(folder: str, path: str) -> BinaryIO:
    """A file of the artifact at `folder`, to be read as a whole; fetched if need be."""
    part = _parts(folder).get(path) if setting() and not filesystem.is_local(folder) else None
    return open_url(join(folder, path), part)


def open_url(url: str, part: FilePart | None = None) -> BinaryIO:
    """Any file, to be read as a whole; part: what a manifest says of it.

    Raises what `filesystem.open_read` does.
    """
    kept = _keep(url, part)
    return filesystem.open_read(url) if kept is None else kept


def open_kept(folder: str, path: str) -> BinaryIO | None:
    """A file of an artifact if it is in the cache; for who reads so little that it is not worth
    fetching."""
    chosen = setting()
    if chosen is None or filesystem.is_local(folder) or (part := _parts(folder).get(path)) is None:
        return None
    try:
        with _disk():
            return _open(chosen.folder / "files" / part.sha256, part.sha256)
    except _DiskError:
        return None


def _parts(folder: str) -> Mapping[str, FilePart]:
    """The files of a committed artifact, by path; of any other none."""
    try:
        return _committed(folder)
    except LookupError:
        return {}


@functools.lru_cache(maxsize=4)
def _committed(folder: str) -> Mapping[str, FilePart]:
    artifact = artifacts.load(folder)
    if artifact is None:
        raise LookupError(folder)  # which is not remembered: it may be committed next
    return {file.path: file for part in artifact.parts for file in part.files}


class _DiskError(Exception):
    """The disk of the cache failed."""


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    """What fails on the cache's own disk turns the cache off, and is no failure of the work."""
    global _off
    try:
        yield
    except OSError as error:
        if not _off:
            _off = True
            where = os.environ.get(VARIABLE, "").rpartition(":")[0]
            print(
                f"the shard cache at {where} is off from now on: {error.strerror or error}; files "
                f"are read from their store (way out: free space, or give {VARIABLE} less)",
                file=sys.stderr,
                flush=True,
            )
        raise _DiskError from error


def _keep(url: str, part: FilePart | None) -> BinaryIO | None:
    """The file from the cache, fetched into it if need be; None where it cannot be kept."""
    chosen = setting()
    if chosen is None or filesystem.is_local(url):
        return None
    if part is not None:
        key, size, sha256 = part.sha256, part.bytes, part.sha256
    else:
        size, *told = filesystem.state(url)
        if not any(told):
            return None  # nothing would tell when it changes
        key, sha256 = digest([url, size, [str(each) for each in told]]), None
    if not 0 < size <= chosen.size:
        return None
    try:
        return _Slot(chosen, key, size, sha256).file(url)
    except _DiskError:
        return None


def _open(path: Path, sha256: str) -> BinaryIO | None:
    """A kept file; None for one that is not there, or was damaged, which is removed."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    stat = os.fstat(file.fileno())
    seal = stat.st_ino, stat.st_mtime_ns, stat.st_size
    if _sound.get(str(path)) != seal:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            file.close()
            path.unlink(missing_ok=True)
            return None
        file.seek(0)
        _sound[str(path)] = seal
    with contextlib.suppress(FileNotFoundError):  # evicted just now: it can still be read
        os.utime(path, ns=(time.time_ns(), stat.st_mtime_ns))  # read now, for the order of going
    return file


@dataclass(frozen=True)
class _Slot:
    """The place of one file. sha256: None where only fetching it will tell, and its name then."""

    setting: Setting
    key: str
    size: int
    sha256: str | None

    @property
    def _files(self) -> Path:
        return self.setting.folder / "files"

    def file(self, url: str) -> BinaryIO | None:
        """The file, fetched by this process or, at the same time, by another one."""
        coming = self.setting.folder / "coming" / self.key
        with _disk():
            self._files.mkdir(parents=True, exist_ok=True)
            coming.parent.mkdir(exist_ok=True)
        while True:
            with _disk():
                if kept := self._kept():
                    return kept
                raw = coming.open("ab")
            with raw:
                with _disk():
                    fcntl.flock(raw, fcntl.LOCK_EX)  # while another one fetches it, we wait
                    if not _is_at(raw, coming):
                        continue  # and now it is kept, or was given up
                try:
                    with _disk():
                        if kept := self._kept():  # since we looked
                            return kept
                        room = self._make_room(raw)
                    return self._fetch(url, raw, coming) if room else None
                finally:
                    if _is_at(raw, coming):
                        coming.unlink(missing_ok=True)

    def _kept(self) -> BinaryIO | None:
        if self.sha256 is not None:
            return _open(self._files / self.key, self.sha256)
        for path in self._files.glob(f"{self.key}-*"):
            if kept := _open(path, path.name.rpartition("-")[2]):
                return kept
        return None

    def _make_room(self, raw: BinaryIO) -> bool:
        """Remove what was not read for the longest until the file fits, and take its place."""
        with (self.setting.folder / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            stats = dict(_stats(self._files))
            left = self.setting.size - sum(stat.st_size for stat in stats.values())
            left -= sum(map(_reserved, (self.setting.folder / "coming").iterdir()))
            for path in sorted(stats, key=lambda path: stats[path].st_atime_ns):
                if left >= self.size:
                    break
                path.unlink(missing_ok=True)
                left += stats[path].st_size
            if left >= self.size:
                raw.truncate(self.size)
            return left >= self.size

    def _fetch(self, url: str, raw: BinaryIO, coming: Path) -> BinaryIO | None:
        """Fetch into `raw`; None where what comes is not what it should be: let the reader see."""
        found, count = hashlib.sha256(), 0
        with filesystem.open_read(url) as source, coming.open("r+b", buffering=0) as target:
            while block := source.read(BLOCK):
                found.update(block)
                count += len(block)
                with _disk():
                    rest = memoryview(block)
                    while rest:
                        rest = rest[target.write(rest) :]
        if count != self.size or self.sha256 not in (None, found.hexdigest()):
            return None
        name = self.key if self.sha256 else f"{self.key}-{found.hexdigest()}"
        with _disk():
            stat = os.fstat(raw.fileno())
            coming.rename(self._files / name)
            _sound[str(self._files / name)] = stat.st_ino, stat.st_mtime_ns, stat.st_size
            return _open(self._files / name, found.hexdigest())


def _stats(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a damaged one that was just removed
            yield path, path.stat()


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _reserved(path: Path) -> int:
    """The bytes of a file that is being fetched; what a killed process left of one is removed."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return path.stat().st_size
        path.unlink()
    return 0
