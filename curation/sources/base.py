"""What every kind of source gives: units of work, and records, good and bad, out of them."""

import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import orjson

from infra import filesystem
from infra.errors import SluiceError
from infra.shards import IMAGE_EXTENSIONS

# Reasons for a rejected record; ingest adds those of the image itself.
MISSING_IMAGE = "missing_image"
MISSING_CAPTION = "missing_caption"
TWO_IMAGES = "two_images"
TWO_CAPTIONS = "two_captions"
MEMBER_TOO_LARGE = "member_too_large"
LINKED_MEMBER = "linked_member"
CAPTION_NOT_UTF8 = "caption_not_utf8"
BAD_JSON = "bad_json"

# Image files that a dataset version cannot hold still are images: they are refused by name.
OTHER_IMAGES = ("gif", "bmp", "tif", "tiff", "avif", "heic", "jp2", "jxl", "svg")
IMAGES = frozenset((*IMAGE_EXTENSIONS, *OTHER_IMAGES))
CAPTION, SIDECAR = "txt", "json"
EXTENSIONS = IMAGES | {CAPTION, SIDECAR}

FEW = 8  # names in one folder that are looked up one by one

# What has a column of its own, or names the sample only inside its source file.
NO_META = frozenset(("uid", "url", "caption", "text", "key"))


@dataclass(frozen=True)
class Original:
    """What an image was before a resize: SHA-256 of its bytes, pixels of its upright picture."""

    sha256: str | None
    width: int | None
    height: int | None


@dataclass(slots=True)  # not frozen: that takes three times as long to make
class Record:
    """One input record. `source` says where it stood; `reason`, if set, why it is refused.

    A record with a URL, no image and no reason is one that is still to be fetched. An image with
    a `tar` need not be copied: under `key` it starts at byte `offset` of the tar at that URL.
    """

    source: str
    image: bytes | None = None
    caption: str | None = None
    url: str | None = None
    uid: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])
    reason: str | None = None
    expected: str | None = None  # MD5 or SHA-256, in hex, of the bytes behind `url`
    http_status: int | None = None  # of the last answer, where the image was fetched
    key: str | None = None
    tar: str | None = None
    offset: int | None = None
    original: Original | None = None  # where `image` is no longer what the source had


class Unit(Protocol):
    """A piece of a source that becomes one shard; travels to a worker."""

    @property
    def name(self) -> str:
        """Which file or files, for messages."""
        ...

    def records(self) -> Iterator[Record]: ...


class Source(Protocol):
    """A source of one kind. Its files and units come in the same order every time."""

    def files(self) -> list[str]:
        """The URLs of all files, sorted; SluiceError where there are none."""
        ...

    def units(self, rows_per_shard: int) -> Sequence[Unit]:
        """Its units in order, of at most `rows_per_shard` records where it can be cut there."""
        ...


def labels(files: Sequence[str]) -> list[str]:
    """Names for files that do not depend on where they lie: from their common folder on.

    [/data/pool/00000.tar, /data/pool/00001.tar] -> [pool/00000.tar, pool/00001.tar]
    """
    paths = [filesystem.resolve(file)[1].replace("\\", "/") for file in files]
    folder = posixpath.commonpath([posixpath.dirname(path) for path in paths]) if paths else ""
    start = len(posixpath.dirname(folder))
    return [clean(path[start:].lstrip("/")) for path in paths]


def list_source(location: str, suffixes: Sequence[str], kind: str) -> list[str]:
    """The files of a location, sorted; from a folder, only those with one of `suffixes`.

    Hidden files (a name that starts with a dot) are never among them.
    """
    if location.startswith("pipe:"):
        raise SluiceError(f"{location} would run a command", "name files, not commands")
    names = braces(location)
    try:
        known = _files_beside(names)
        files = [known[name] for name in names if name in known]
        others = [name for name in names if name not in known]
        files += [file for name in others for file in _listed(name, suffixes, kind)]
    except OSError as error:
        raise SluiceError(
            f"cannot list {location}: {error.strerror or error}",
            f"check the path and the permissions of the source's `{kind}`",
        ) from error
    return sorted(files)


def _files_beside(names: Sequence[str]) -> dict[str, str]:
    """Those of many names that are files, with their URLs: one listing for each of their folders.

    An object store is asked once for a folder, not a hundred thousand times for a name.
    """
    folders = Counter(name.rpartition("/")[0] for name in names)
    held: dict[str, dict[str, str]] = {}
    for folder, count in folders.items():
        if count > FEW and not any(sign in folder for sign in "*?["):
            files = filesystem.list_files(filesystem.join(folder or ".", "*"))
            held[folder] = {file.rpartition("/")[2]: file for file in files}
    split = {name: name.rpartition("/") for name in names}
    return {
        name: held[folder][base]
        for name, (folder, _, base) in split.items()
        if base in held.get(folder, {}) and not base.startswith(".")
    }


def _listed(location: str, suffixes: Sequence[str], kind: str) -> list[str]:
    files = filesystem.list_files(location)
    if filesystem.is_folder(location):
        files = [file for file in files if file.lower().endswith(tuple(suffixes))]
    files = [file for file in files if not file.rpartition("/")[2].startswith(".")]
    if not files:
        raise SluiceError(
            f"no file at {location}",
            f"check the source's `{kind}`: a file, a folder with {' or '.join(suffixes[:3])} "
            "files, or a pattern with * (in quotes on a command line)",
        )
    return files


def braces(location: str) -> list[str]:
    """Each name a pattern like {00000..00012}.tar or {a,b}.tar stands for, as shells read it."""
    found = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", location)
    if found is None:
        return [location]
    first, last, names = found.groups()
    choices = names.split(",") if names else _count(first, last)
    start, end = location[: found.start()], location[found.end() :]
    return [name for choice in choices for name in braces(f"{start}{choice}{end}")]


def _count(first: str, last: str) -> list[str]:
    padded = any(len(number) > 1 and number[0] == "0" for number in (first, last))
    width = max(len(first), len(last)) if padded else 0
    low, high = sorted((int(first), int(last)))
    return [f"{number:0{width}d}" for number in range(low, high + 1)]


def clean(text: str) -> str:
    """`text` with what UTF-8 cannot hold (lone surrogates) replaced."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def from_members(source: str, members: Mapping[str, bytes]) -> Record:
    """The record of files that share a name: an image, NAME.txt, and perhaps NAME.json.

    members: by extension, as `infra.shards.read_tar` gives them. The caption is NAME.txt's, else
    the `caption` or `text` of NAME.json, which is also where URL, uid and the rest come from.
    """
    images = [name for name in members if name in IMAGES]
    facts, reason = _facts(members.get(SIDECAR))
    given, caption_reason = _caption(members.get(CAPTION), facts)
    return Record(
        source,
        image=members[images[0]] if images else None,
        caption=given,
        url=text_of(facts.get("url")),
        uid=text_of(facts.get("uid")),
        meta={name: value for name, value in facts.items() if name not in NO_META},
        reason=_wrong_members(members, len(images)) or reason or caption_reason,
    )


def _wrong_members(members: Mapping[str, bytes], images: int) -> str | None:
    """Why these members are no sample, whatever they hold: too few or too many, or unread."""
    if images == 1 and "#" not in "".join(members):
        return None
    marks = [name.partition("#") for name in members if "#" in name]
    if any(mark == "too_large" for _, _, mark in marks):
        return MEMBER_TOO_LARGE
    if any(mark == "link" for _, _, mark in marks):
        return LINKED_MEMBER
    if images > 1 or any(name in IMAGES for name, _, _ in marks):
        return TWO_IMAGES
    if not images:
        return MISSING_IMAGE
    return TWO_CAPTIONS if any(name in (CAPTION, SIDECAR) for name, _, _ in marks) else None


def text_of(value: Any) -> str | None:
    """A string as it may stand in a column, or None for what is no string or empty."""
    return clean(value) if isinstance(value, str) and value else None


def _caption(data: bytes | None, facts: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The caption without white space around it, and why there is none."""
    reason = None
    if data is None:
        text = text_of(facts.get("caption")) or text_of(facts.get("text")) or ""
    else:
        try:
            text = data.decode().removeprefix("\ufeff")
        except UnicodeDecodeError:
            text, reason = data.decode("utf-8", "replace"), CAPTION_NOT_UTF8
    text = text.strip()
    return (text or None), (reason if text else MISSING_CAPTION)


def _facts(data: bytes | None) -> tuple[dict[str, Any], str | None]:
    """The object in a sidecar; numbers that JSON does not have become null."""
    if data is None:
        return {}, None
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return _strange_facts(data)
    if not isinstance(value, dict):
        return {}, BAD_JSON
    facts = cast(dict[str, Any], value)
    for fact in facts.values():
        kind = type(fact)  # orjson makes floats of integers beyond 64 bits
        if kind is list or kind is dict or (kind is float and abs(fact) >= 2**63):
            return _strange_facts(data)
    return facts, None


def _strange_facts(data: bytes) -> tuple[dict[str, Any], str | None]:
    """The same, of what Python's own reader still takes: NaN, lone surrogates, deep nesting."""
    try:
        value = json.loads(data, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return {}, BAD_JSON
    return (cast(dict[str, Any], value), None) if isinstance(value, dict) else ({}, BAD_JSON)
