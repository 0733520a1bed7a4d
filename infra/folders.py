"""What lies in a folder, on a disk or an object store, and taking it away."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from infra import filesystem
from infra.errors import SluiceError
from infra.filesystem import join

_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")
_REFUSED = "check the permissions of the store, then run the same command again"


@dataclass(frozen=True)
class Entry:
    """A file or a folder in a folder. changed: seconds since 1970, of a file; 0 if unknown."""

    url: str
    folder: bool
    bytes: int
    changed: float

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def entries(url: str) -> list[Entry]:
    """What lies directly in a folder, sorted; nothing where there is none.

    An object store is asked once for each 1,000 of them.
    """
    fs, path = filesystem.resolve(url)
    try:
        with filesystem.reading(url):
            found = fs.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    own = path.rstrip("/")
    names = {each["name"].rstrip("/"): each for each in found}  # a folder marker names itself
    return [_entry(join(url, name[len(own) :].strip("/")), names[name])
            for name in sorted(names) if name != own]  # fmt: skip


def files_under(url: str) -> Iterator[Entry]:
    """Every file in a folder and in those in it."""
    fs, path = filesystem.resolve(url)
    with filesystem.reading(url):
        found = fs.find(path, detail=True)
    own = path.rstrip("/")
    for name, known in sorted(found.items()):
        yield _entry(join(url, name[len(own) :].strip("/")), known)


def _entry(url: str, known: dict[str, Any]) -> Entry:
    return Entry(url, known["type"] == "directory", int(known.get("size") or 0), _changed(known))


def _changed(known: dict[str, Any]) -> float:
    value = next((known[name] for name in _TIMES if known.get(name)), 0.0)
    if isinstance(value, str):  # GCS
        value = datetime.fromisoformat(value)
    return value.timestamp() if isinstance(value, datetime) else float(value)


def remove_file(url: str) -> None:
    """Remove one file; one that is gone is no error."""
    fs, path = filesystem.resolve(url)
    try:
        fs.rm_file(path)
    except FileNotFoundError:
        return
    except Exception as error:
        raise SluiceError(f"cannot remove {url}: {error}", _REFUSED) from error


def remove_folder(url: str) -> None:
    """Remove a folder and all in it; SluiceError where something stays."""
    filesystem.remove_tree(url)
    if filesystem.exists(url):
        raise SluiceError(f"cannot remove {url}, or not all of it", _REFUSED)


@dataclass(frozen=True)
class Upload:
    """An upload in parts that was begun and neither completed nor given up."""

    url: str
    key: str
    id: str
    started: float


def uploads(url: str) -> list[Upload]:
    """Those below a URL, where the store tells: S3 does; GCS and Azure drop them after a week.

    None where it has no such list, or the key may not read it.
    """
    fs, path = filesystem.resolve(url)
    if not hasattr(fs, "call_s3"):
        return []
    bucket, _, prefix = path.partition("/")
    asked: dict[str, Any] = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else ""}
    found: list[Upload] = []
    more = True
    while more:
        try:
            with filesystem.reading(url):
                answer = fs.call_s3("list_multipart_uploads", **asked)
        except (SluiceError, OSError):
            return found
        for each in answer.get("Uploads") or []:
            whole = str(fs.unstrip_protocol(f"{bucket}/{each['Key']}"))
            started = each["Initiated"].timestamp()
            found.append(Upload(whole, each["Key"], each["UploadId"], started))
        more = bool(answer.get("IsTruncated"))
        asked |= {"KeyMarker": answer.get("NextKeyMarker", "")}
        asked |= {"UploadIdMarker": answer.get("NextUploadIdMarker", "")}
    return found


def abort(upload: Upload) -> None:
    """Give an upload up: what it has stored so far is freed."""
    fs, path = filesystem.resolve(upload.url)
    try:
        fs.call_s3(
            "abort_multipart_upload",
            Bucket=path.partition("/")[0],
            Key=upload.key,
            UploadId=upload.id,
        )
    except FileNotFoundError:  # it was completed, or given up, meanwhile
        return
    except Exception as error:
        raise SluiceError(
            f"cannot give up the upload of {upload.url}: {error}", _REFUSED
        ) from error
