"""Uploads in parts that nobody will complete: what a killed writer leaves on S3."""

import contextlib
from dataclasses import dataclass
from typing import Any

from infra.errors import SluiceError
from infra.filesystem.retries import ask
from infra.filesystem.urls import named_as, resolve

LIST = "list_multipart_uploads"


@dataclass(frozen=True)
class Abandoned:
    """An upload in parts that was begun and neither completed nor given up."""

    url: str
    key: str
    id: str
    started: float


def abandoned(url: str) -> list[Abandoned]:
    """Those below a URL, where the store tells: S3 does; GCS and Azure drop them after a week.

    None where it has no such list, or the key may not read it.
    """
    fs, path = resolve(url)
    if not hasattr(fs, "call_s3"):
        return []
    bucket, _, prefix = path.partition("/")
    asked: dict[str, Any] = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else ""}
    found: list[Abandoned] = []
    more = True

    def page(fs: Any, _: str) -> Any:
        return fs.call_s3(LIST, **asked)

    while more:
        try:
            answer = ask(url, "list", page)
        except (SluiceError, OSError):
            return found
        for each in answer.get("Uploads") or []:
            (whole,) = named_as(url, [f"{bucket}/{each['Key']}"])
            started = each["Initiated"].timestamp()
            found.append(Abandoned(whole, each["Key"], each["UploadId"], started))
        more = bool(answer.get("IsTruncated"))
        asked |= {"KeyMarker": answer.get("NextKeyMarker", "")}
        asked |= {"UploadIdMarker": answer.get("NextUploadIdMarker", "")}
    return found


def abort(upload: Abandoned) -> None:
    """Give an upload up: what it has stored so far is freed."""
    named = {"Key": upload.key, "UploadId": upload.id}

    def give_up(fs: Any, path: str) -> None:
        fs.call_s3("abort_multipart_upload", Bucket=path.partition("/")[0], **named)

    with contextlib.suppress(FileNotFoundError):  # it was completed, or given up, meanwhile
        ask(upload.url, "remove", give_up, verb="give up the upload of")
