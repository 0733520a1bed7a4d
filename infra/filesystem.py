"""Files on any fsspec URL: whole files appear at once or not at all.

A local path is a URL without a scheme. Local writes go to a temporary name beside the
target and are renamed; object stores publish an object only when its upload completes.

What a remote store fails at is a SluiceError that names the URL, whatever its library calls it:
else an expired token would look like a damaged file. Only a file that is not there is not told so.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from infra.errors import SluiceError

TEMPORARY = "_tmp"  # folder of unfinished local files, one per artifact
TAGS = ("ETag", "etag", "md5Hash", "content_md5", "generation")  # of S3, HTTP, GCS, Azure
TIMES = ("mtime", "ino", "LastModified", "updated", "last_modified", "created")
REMOTE = (
    "check the name, what your credentials allow, and the connection (for S3: AWS_PROFILE or "
    "AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL), then run the same command again: finished shards are "
    "kept"
)


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
        # Without a cache of listings: other processes write too, and delete.
        return fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise SluiceError(
            f"cannot open {url}: {error}",
            "install the fsspec package of this scheme (s3fs, gcsfs, adlfs), or use a local path",
        ) from error


def is_local(url: str) -> bool:
    return isinstance(resolve(url)[0], LocalFileSystem)


def join(url: str, *names: str) -> str:
    return "/".join([url.rstrip("/"), *names])


def _faults(url: str) -> type[Exception]:
    """What says that a file system failed; every library of remote ones has errors of its own."""
    return OSError if is_local(url) else Exception


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@contextlib.contextmanager
def reading(url: str, opened: bool = False) -> Iterator[None]:
    """What a remote store fails at becomes a SluiceError, but not that there is no such file.

    opened: there was, and that it has gone since is a failure like any other.
    """
    try:
        yield
    except Exception as error:
        absent = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
        if is_local(url) or isinstance(error, SluiceError) or (absent and not opened):
            raise
        raise SluiceError(f"cannot read {url}: {_why(error)}", REMOTE) from error


def exists(url: str) -> bool:
    fs, path = resolve(url)
    with reading(url):
        return bool(fs.exists(path))


def is_folder(url: str) -> bool:
    fs, path = resolve(url)
    with reading(url):
        return bool(fs.isdir(path))


def info(url: str) -> dict[str, Any]:
    """What the file system knows of a file: size, and, on object stores, its entity tag."""
    fs, path = resolve(url)
    with reading(url):
        return fs.info(path)


def infos(urls: Sequence[str]) -> list[dict[str, Any]]:
    """What `info` says of many files: an object store is asked once for each of their folders."""
    folders = Counter(url.rpartition("/")[0] for url in urls)
    held: dict[str, dict[str, Any]] = {}
    for folder in (folder for folder, count in folders.items() if count > 1):
        fs, path = resolve(folder)
        # No web server has to list files, nor does every key allow it.
        with contextlib.suppress(OSError, SluiceError), reading(folder):
            held |= {known["name"]: known for known in fs.ls(path, detail=True)}
    return [held.get(resolve(url)[1]) or info(url) for url in urls]


def state(url: str) -> tuple[Any, ...]:
    """What changes when a file does: size, and entity tag, time of change and the like."""
    known = info(url)
    return int(known.get("size") or 0), *(known.get(name) for name in (*TAGS, *TIMES))


def size(url: str) -> int:
    return int(info(url).get("size") or 0)


def read_bytes(url: str) -> bytes:
    fs, path = resolve(url)
    with reading(url):
        return fs.cat_file(path)


def read_many(urls: Sequence[str]) -> list[bytes | None]:
    """Files of one store, none of them empty, asked for at once; None for one that is gone."""
    if not urls:
        return []
    fs, _ = resolve(urls[0])
    paths = [resolve(url)[1] for url in urls]
    # From byte 0 on, which spares S3 the question of how long each is.
    found = fs.cat_ranges(paths, [0] * len(paths), [None] * len(paths), on_error="return")
    return [_read(url, data) for url, data in zip(urls, found, strict=True)]


def read_ranges(url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Bytes from the first up to the second of each pair, asked for at once; less at the end."""
    fs, path = resolve(url)
    starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
    with reading(url):
        return fs.cat_ranges([path] * len(ranges), starts, stops, on_error="raise")


def _read(url: str, data: bytes | Exception) -> bytes | None:
    with reading(url):
        if isinstance(data, FileNotFoundError):
            return None
        if isinstance(data, Exception):
            raise data
        return data


def read_json(url: str) -> Any:
    return json.loads(read_bytes(url))


def open_read(url: str, ahead: bool = True) -> BinaryIO:
    """A file to read; ahead: a remote one is read on beyond what is asked for."""
    fs, path = resolve(url)
    if is_local(url):
        return fs.open(path, "rb")
    with reading(url):
        raw = fs.open(path, "rb") if ahead else fs.open(path, "rb", cache_type="none")
    return cast(BinaryIO, _Remote(raw, url))


class _Remote(io.RawIOBase):
    """A remote file whose failures name it."""

    def __init__(self, raw: Any, url: str) -> None:
        self._raw = raw
        self._url = url

    def read(self, size: int = -1) -> bytes:
        with reading(self._url, opened=True):
            return self._raw.read(size)

    def readinto(self, buffer: Any) -> int:
        with reading(self._url, opened=True):
            return self._raw.readinto(buffer)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._raw.seekable()

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


def _refused(url: str, error: Exception) -> SluiceError:
    ways_out = (
        "free space or fix the permissions, or name another store with --store, then run the "
        "same command again: finished shards are kept"
    )
    return SluiceError(f"cannot write {url}: {_why(error)}", ways_out if is_local(url) else REMOTE)


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
        except _faults(self._url) as error:
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
    except _faults(url) as error:
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
    url = join(folder, path)
    if not is_local(url):
        fs, remote = resolve(url)
        try:
            fs.pipe_file(remote, data)  # one request, where an open file would make three
        except Exception as error:
            raise _refused(url, error) from error
        return FilePart(path, len(data), hashlib.sha256(data).hexdigest())
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
        except Exception as error:
            if exists(url):
                return False  # two at once, of whom S3 turned us away; or our answer was lost
            raise _refused(url, error) from error
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
    elif exists(url):
        try:
            fs.rm(path, recursive=True)
        except FileNotFoundError:
            pass  # another writer was faster
        except Exception as error:
            raise _refused(url, error) from error


def remove_empty(url: str) -> None:
    """Remove a local folder if nothing is in it; object stores have no folders."""
    if is_local(url):
        with contextlib.suppress(OSError):
            Path(resolve(url)[1]).rmdir()


def list_files(url: str) -> list[str]:
    """The URLs of the files a path, a folder or a glob pattern stands for, sorted."""
    fs, path = resolve(url)
    with reading(url):
        found = _list(fs, path)
    return found if is_local(url) else [str(fs.unstrip_protocol(name)) for name in found]


def _list(fs: Any, path: str) -> list[str]:
    if any(sign in path for sign in "*?["):
        listed = {name: facts["type"] for name, facts in fs.glob(path, detail=True).items()}
        # Only links are asked about one by one: on an object store each question is a call.
        return sorted(
            name
            for name, kind in listed.items()
            if kind == "file" or (kind != "directory" and fs.isfile(name))
        )
    return sorted(fs.find(path))  # of a file that file, of nothing nothing


def free_bytes(url: str) -> int | None:
    """Free space where `url` would be written, or None where nobody can tell."""
    if not is_local(url):
        return None
    folder = Path(resolve(url)[1])
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
