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
    known: dict[str, set[str]] = {}
    for pattern in (MANIFEST, WITHDRAWN, "timing.json"):
        for url in filesystem.list_files(join(store, "*", "*", pattern)):
            known.setdefault(url.rpartition("/")[0], set()).add(pattern)
    begun: set[str] = set()
    for inside in (f"{PARTS}/*.json", "rows/*.parquet", "shards/*.tar"):
        for url in filesystem.list_files(join(store, "*", "*", inside)):
            begun.add(url.rsplit("/", 2)[0])
    return sorted(
        url
        for url in begun
        if _VERSION.fullmatch(url.rpartition("/")[2])
        and not known.get(url, set()) & {MANIFEST, WITHDRAWN}
    )


def last_change(url: str) -> float | None:
    """Seconds since something was written into an unfinished folder; None where nobody can tell."""
    files = filesystem.list_files(join(url, PARTS)) + filesystem.list_files(join(url, TEMPORARY))
    times: list[float] = []
    for known in filesystem.infos(files):
        found = next((known[name] for name in _TIMES if known.get(name) is not None), None)
        if found is not None:
            times.append(found.timestamp() if hasattr(found, "timestamp") else float(found))
    return time.time() - max(times) if times else None
