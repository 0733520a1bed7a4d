"""Files on any fsspec URL: whole files appear at once or not at all.

A local path is a URL without a scheme. Local writes go to a temporary name beside the
target and are renamed; object stores publish an object only when its upload completes.
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from infra.errors import SluiceError

TEMPORARY = "_tmp"  # folder of unfinished local files, one per artifact
TAGS = ("ETag", "etag", "md5Hash", "content_md5", "generation")  # of S3, HTTP, GCS, Azure
TIMES = ("mtime", "ino", "LastModified", "updated", "last_modified", "created")


@dataclass(frozen=True)
class FilePart:
    """A written file: its path relative to the artifact, its size in bytes, its SHA-256."""

    path: str
    bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def resolve(url: str) -> tuple[Any, str]:
    """The fsspec file system and the path of a URL.

    An unknown scheme says which package to add.
    """
    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise SluiceError(
            f"cannot open {url}: {error}",
            "install the fsspec package of this scheme (s3fs, gcsfs, adlfs), or use a local path",
        ) from error


def is_local(url: str) -> bool:
    return isinstance(resolve(url)[0], LocalFileSystem)


def join(url: str, *names: str) -> str:
    return "/".join([url.rstrip("/"), *names])


def exists(url: str) -> bool:
    fs, path = resolve(url)
    return bool(fs.exists(path))


def is_folder(url: str) -> bool:
    fs, path = resolve(url)
    return bool(fs.isdir(path))


def info(url: str) -> dict[str, Any]:
    """What the file system knows of a file: size, and, on object stores, its entity tag."""
    fs, path = resolve(url)
    return fs.info(path)


def infos(urls: Sequence[str]) -> list[dict[str, Any]]:
    """What `info` says of many files: an object store is asked once for each of their folders."""
    folders = Counter(url.rpartition("/")[0] for url in urls)
    held: dict[str, dict[str, Any]] = {}
    for folder in (folder for folder, count in folders.items() if count > 1):
        fs, path = resolve(folder)
        with contextlib.suppress(OSError, NotImplementedError):  # no web server has to list files
            held |= {known["name"]: known for known in fs.ls(path, detail=True)}
    return [held.get(resolve(url)[1]) or info(url) for url in urls]


def state(url: str) -> tuple[Any, ...]:
    """What changes when a file does: size, and entity tag, time of change and the like."""
    known = info(url)
    return int(known.get("size") or 0), *(known.get(name) for name in (*TAGS, *TIMES))


def size(url: str) -> int:
    fs, path = resolve(url)
    return int(fs.size(path) or 0)


def read_bytes(url: str) -> bytes:
    fs, path = resolve(url)
    return fs.cat_file(path)


def read_json(url: str) -> Any:
    return json.loads(read_bytes(url))


def open_read(url: str) -> BinaryIO:
    fs, path = resolve(url)
    return fs.open(path, "rb")


def _refused(url: str, error: OSError) -> SluiceError:
    return SluiceError(
        f"cannot write {url}: {error.strerror or error}",
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
            raise _refused(self._url, error) from error
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
    raised: BaseException | None = None
    try:
        with _open_whole(folder, path) as raw:
            try:
                yield HashingFile(raw, url)
            except BaseException as error:
                raised = error
                raise
    except OSError as error:
        if error is raised:
            raise
        raise _refused(url, error) from error


@contextlib.contextmanager
def _open_whole(folder: str, path: str) -> Iterator[BinaryIO]:
    fs, remote = resolve(join(folder, path))
    if not isinstance(fs, LocalFileSystem):
        with fs.transaction, fs.open(remote, "wb") as raw:
            yield raw
        return
    target = Path(remote)
    temporary = Path(resolve(folder)[1]) / TEMPORARY / f"{uuid.uuid4().hex}-{target.name}"
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as raw:
            yield raw
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(folder: str, path: str, data: bytes) -> FilePart:
    with write_whole(folder, path) as file:
        file.write(data)
    return file.part(path)


def put_if_absent(folder: str, path: str, data: bytes) -> bool:
    """Create `folder/path` unless it exists; False when another writer was first."""
    url = join(folder, path)
    if not is_local(folder):
        fs, remote = resolve(url)
        try:
            fs.pipe_file(remote, data, mode="create")
        except FileExistsError:
            return False
        return True
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
        raise _refused(url, error) from error
    finally:
        source.unlink(missing_ok=True)
    return True


def remove_tree(url: str) -> None:
    fs, path = resolve(url)
    if isinstance(fs, LocalFileSystem):
        shutil.rmtree(path, ignore_errors=True)
    elif fs.exists(path):
        fs.rm(path, recursive=True)


def remove_empty(url: str) -> None:
    """Remove a local folder if nothing is in it; object stores have no folders."""
    if is_local(url):
        with contextlib.suppress(OSError):
            Path(resolve(url)[1]).rmdir()


def list_files(url: str) -> list[str]:
    """The URLs of the files a path, a folder or a glob pattern stands for, sorted."""
    fs, path = resolve(url)
    fs.invalidate_cache(path)  # object stores keep listings, but other processes write too
    if any(sign in path for sign in "*?["):
        listed = {name: facts["type"] for name, facts in fs.glob(path, detail=True).items()}
        # Only links are asked about one by one: on an object store each question is a call.
        found = [
            name
            for name, kind in listed.items()
            if kind == "file" or (kind != "directory" and fs.isfile(name))
        ]
    elif fs.isdir(path):
        found = fs.find(path)
    else:
        found = [path] if fs.exists(path) else []
    return sorted(str(fs.unstrip_protocol(name)) if not is_local(url) else name for name in found)


def free_bytes(url: str) -> int | None:
    """Free space where `url` would be written, or None where nobody can tell."""
    if not is_local(url):
        return None
    folder = Path(resolve(url)[1])
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
