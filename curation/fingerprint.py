"""What the files of a source hold, in one short name, without reading more than must be read.

Local files are hashed once: the store remembers the hash of a file by its path, size, time of
change and inode. Object stores know what their files hold.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from curation.settings import SourceSettings
from curation.sources import open_source
from curation.sources.base import labels
from infra import filesystem
from infra.digests import canonical_json, digest
from infra.errors import SluiceError
from infra.filesystem import join

REMEMBERED = "fingerprints.json"  # in the store: path -> size, time of change, inode, SHA-256
WORTH = 64 * 2**20  # bytes; less is hashed as quickly as it is remembered
SETTLED = 2.0  # seconds; a file changed since may change again with no other time of change
THREADS = 8


def source_fingerprint(sources: Sequence[SourceSettings], store: str | None = None) -> str:
    """16 hex characters over what the sources' files hold, wherever they lie.

    Name, size and SHA-256 of each file; on an object store its entity tag in place of the hash.
    A source with `fingerprint` set is taken at its word. `store` remembers the hashes, if it can
    be written. Raises SluiceError for a missing source.
    """
    states: list[Any] = []
    for source in sources:
        if source.fingerprint is not None:
            states.append(source.fingerprint)
            continue
        files = open_source(source).files()
        found = zip(labels(files), file_states(files, store), strict=True)
        states.append([[label, *state] for label, state in found])
    return digest(states)


def file_states(files: Sequence[str], store: str | None = None) -> list[tuple[int, str]]:
    """The size of each file, and its entity tag, or else the SHA-256 of its bytes."""
    facts = filesystem.infos(files)
    tags = [_tag(known) for known in facts]
    unknown = [position for position, tag in enumerate(tags) if tag is None]
    states = {file: _identity(facts[position]) for position, file in enumerate(files)}
    remembered = _recall(store) if unknown else {}
    todo: list[int] = []
    for position in unknown:
        *before, sha256 = remembered.get(files[position], [None])
        if before and before == states[files[position]]:
            tags[position] = sha256
        else:
            todo.append(position)
    started = time.time()
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        hashes = pool.map(_sha256, [files[position] for position in todo])
        for position, sha256 in zip(todo, hashes, strict=True):
            tags[position] = sha256
            mtime = states[files[position]][1]
            if mtime is not None and mtime / 1e6 < started - SETTLED:
                remembered[files[position]] = [*states[files[position]], sha256]
    if sum(int(facts[position]["size"] or 0) for position in todo) >= WORTH:
        _remember(store, remembered)
    return [(int(known["size"] or 0), str(tag)) for known, tag in zip(facts, tags, strict=True)]


def _tag(known: dict[str, Any]) -> str | None:
    return next((str(known[name]) for name in filesystem.TAGS if known.get(name)), None)


def _identity(known: dict[str, Any]) -> list[int | None]:
    """Size, time of change in microseconds and inode: another file has another."""
    mtime = known.get("mtime")
    return [known["size"], None if mtime is None else int(mtime * 1e6), known.get("ino")]


def _sha256(url: str) -> str:
    try:
        with filesystem.open_read(url) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except OSError as error:
        raise SluiceError(
            f"cannot read {url}: {error.strerror or error}", "check its permissions"
        ) from error


def _recall(store: str | None) -> dict[str, list[Any]]:
    """What the store remembers; nothing where it cannot be read."""
    try:
        found = filesystem.read_json(join(store, REMEMBERED)) if store else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(store: str | None, hashes: dict[str, list[Any]]) -> None:
    """Write the hashes whole; of two writers the last one's stay, the others are made again."""
    if store:
        with contextlib.suppress(OSError, SluiceError):
            filesystem.write_bytes(store, REMEMBERED, canonical_json(hashes))
            filesystem.remove_empty(join(store, filesystem.TEMPORARY))
