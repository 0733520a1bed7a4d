"""The dataset versions of a store, and folders of such that nobody finished."""

import re
import time

from infra import artifacts, filesystem
from infra.artifacts import MANIFEST, PARTS, Artifact
from infra.digests import DIGEST_LENGTH
from infra.drawn import is_drawn
from infra.filesystem import TEMPORARY, join
from infra.withdrawn import WITHDRAWN

_VERSION = re.compile(rf"[0-9a-f]{{{DIGEST_LENGTH}}}")
HOLDS = {PARTS, "rows", "shards"}  # what is in the folder of a version that was begun
_TIMES = ("mtime", "LastModified", "last_modified", "updated")  # of fsspec's file systems


def name_of(artifact: Artifact) -> str:
    """NAME@VERSION of a dataset version."""
    return "@".join(artifact.url.rstrip("/").split("/")[-2:])


def versions(store: str) -> list[Artifact]:
    """The committed versions of a store that have files, by NAME@VERSION; shards are not listed."""
    found: list[Artifact] = []
    for url in filesystem.list_files(join(store, "*", "*", MANIFEST)):
        artifact = artifacts.load(url.rpartition("/")[0])
        if artifact is not None and artifact.kind == "dataset" and not is_drawn(artifact):
            found.append(artifact)
    return sorted(found, key=name_of)


def unfinished(store: str) -> list[str]:
    """Folders of versions that were begun and neither committed nor withdrawn.

    Those that hold files of a version: what else lies in a store is nobody's to judge by its name.
    """
    committed = filesystem.list_files(join(store, "*", "*", MANIFEST))
    withdrawn = filesystem.list_files(join(store, "*", "*", WITHDRAWN))
    known = {url.rpartition("/")[0] for url in (*committed, *withdrawn)}
    return [url for url in _folders(store) if url not in known and HOLDS & _names(url)]


def _folders(store: str) -> list[str]:
    """The folders of a store that are called like versions; what lies in them is not listed."""
    fs, path = filesystem.resolve(store)
    with filesystem.reading(store):
        found = fs.glob(f"{path}/*/*", detail=True)
    names = [name.rstrip("/") for name, facts in found.items() if facts["type"] == "directory"]
    names = sorted(name for name in names if _VERSION.fullmatch(name.rpartition("/")[2]))
    return names if filesystem.is_local(store) else [str(fs.unstrip_protocol(n)) for n in names]


def _names(url: str) -> set[str]:
    """What lies in a folder, by name."""
    fs, path = filesystem.resolve(url)
    with filesystem.reading(url):
        return {str(name).rstrip("/").rpartition("/")[2] for name in fs.ls(path, detail=False)}


def last_change(url: str) -> float | None:
    """Seconds since something was written into an unfinished folder; None where nobody can tell."""
    files = filesystem.list_files(join(url, PARTS)) + filesystem.list_files(join(url, TEMPORARY))
    times: list[float] = []
    for known in filesystem.infos(files):
        found = next((known[name] for name in _TIMES if known.get(name) is not None), None)
        if found is not None:
            times.append(found.timestamp() if hasattr(found, "timestamp") else float(found))
    return time.time() - max(times) if times else None
