"""Writing files: whole ones, and those that only the first writer may create."""

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from infra.errors import SluiceError
from infra.filesystem.failures import why
from infra.filesystem.reading import holds
from infra.filesystem.retries import ask
from infra.filesystem.uploads import Upload
from infra.filesystem.urls import is_local, join, resolve

TEMPORARY = "_tmp"  # folder of unfinished local files, one per artifact


@dataclass(frozen=True)
class FilePart:
    """A written file: its path relative to the artifact, its size in bytes, its SHA-256."""

    path: str
    bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, "bytes": self.bytes, "sha256": self.sha256}


def refused(url: str, error: OSError) -> SluiceError:
    """What a disk refuses, in words."""
    return SluiceError(
        f"cannot write {url}: {why(error)}",
        "free space or fix the permissions, or name another store with --store, then run the "
        "same command again: finished shards are kept",
    )


class HashingFile:
    """A write-only file that hashes and counts what passes through it."""

    def __init__(self, raw: BinaryIO, url: str) -> None:
        self._raw = raw
        self._url = url
        self._sha256 = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes | memoryview) -> int:
        try:
            self._raw.write(data)
        except OSError as error:
            raise refused(self._url, error) from error
        self._sha256.update(data)
        length = len(memoryview(data).cast("B")) if len(data) else 0
        self.bytes += length
        return length

    def flush(self) -> None:
        self._raw.flush()

    @property
    def closed(self) -> bool:
        return self._raw.closed

    def part(self, path: str) -> FilePart:
        return FilePart(path, self.bytes, self._sha256.hexdigest())


@contextlib.contextmanager
def write_whole(folder: str, path: str) -> Iterator[HashingFile]:
    """Open `folder/path` for writing; it exists under that name only once it is whole.

    What the file system refuses becomes a SluiceError; what the caller raises passes through.
    """
    url = join(folder, path)
    if is_local(url):
        with _write_local(folder, url) as file:
            yield file
        return
    upload = Upload(url)
    file = HashingFile(cast(BinaryIO, upload), url)
    try:
        yield file
        upload.commit(file.part(path).sha256)
    except BaseException:
        upload.discard()
        raise


@contextlib.contextmanager
def _write_local(folder: str, url: str) -> Iterator[HashingFile]:
    raised: BaseException | None = None
    target = Path(resolve(url)[1])
    temporary = Path(resolve(folder)[1]) / TEMPORARY / f"{uuid.uuid4().hex}-{target.name}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as raw:
                try:
                    yield HashingFile(raw, url)
                except BaseException as error:
                    raised = error
                    raise
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error is raised:
            raise
        raise refused(url, error) from error


def write_bytes(folder: str, path: str, data: bytes) -> FilePart:
    url = join(folder, path)
    if not is_local(url):
        # One request, where an open file would make three.
        ask(url, "write", lambda fs, remote: fs.pipe_file(remote, data), verb="write", passes=())
        return FilePart(path, len(data), hashlib.sha256(data).hexdigest())
    with write_whole(folder, path) as file:
        file.write(data)
    return file.part(path)


def put_if_absent(folder: str, path: str, data: bytes) -> bool:
    """Create `folder/path` unless it exists; False when another writer was first.

    On an object store another one is who wrote something else: of two that put the same bytes
    both are told True.
    """
    url = join(folder, path)
    return _put_local(folder, url, data) if is_local(url) else _put_remote(url, data)


def _put_remote(url: str, data: bytes) -> bool:
    """One conditional request: If-None-Match on S3 and Azure, ifGenerationMatch=0 on GCS.

    Where the store says that there is one, it may be ours, of a try whose answer was lost. Not
    all such tries are known here: aiohttp sends a PUT again by itself where a kept connection
    ends. So the content decides.
    """
    try:
        ask(
            url,
            "create",
            lambda fs, path: fs.pipe_file(path, data, mode="create"),
            verb="write",
            passes=(FileExistsError,),
        )
    except FileExistsError:
        return holds(url, hashlib.sha256(data).hexdigest())
    return True


def _put_local(folder: str, url: str, data: bytes) -> bool:
    target = Path(resolve(url)[1])
    staged = f"{TEMPORARY}/{uuid.uuid4().hex}"  # where a killed writer's litter is swept up
    write_bytes(folder, staged, data)
    source = Path(resolve(join(folder, staged))[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)  # fails when the target exists, on every POSIX file system
    except FileExistsError:
        return False
    except OSError as error:
        if target.exists():
            return False  # the first writer is done, and has swept up
        raise refused(url, error) from error
    finally:
        source.unlink(missing_ok=True)
    return True
