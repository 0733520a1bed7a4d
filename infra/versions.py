"""The dataset versions of a store, and folders of such that nobody finished."""

import re
import time

from infra import artifacts, filesystem
from infra.artifacts import MANIFEST, PARTS, Artifact
from infra.digests import DIGEST_LENGTH
from infra.drawn import is_drawn
from infra.filesystem import TEMPORARY, join
from infra.filesystem.entries import entries, files_under
from infra.withdrawn import WITHDRAWN_FILE

_VERSION = re.compile(rf"[0-9a-f]{{{DIGEST_LENGTH}}}")
HOLDS = {PARTS, "rows", "shards"}  # what is in the folder of a version that was begun


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
    withdrawn = filesystem.list_files(join(store, "*", "*", WITHDRAWN_FILE))
    known = {url.rpartition("/")[0] for url in (*committed, *withdrawn)}
    return [
        url for url in _folders(store) if url not in known and HOLDS & {*filesystem.list_names(url)}
    ]


def _folders(store: str) -> list[str]:
    """The folders of a store that are called like versions; what lies in them is not listed."""
    named = [each.url for each in entries(store) if each.folder]
    found = [each for url in named for each in entries(url) if each.folder]
    return [each.url for each in found if _VERSION.fullmatch(each.name)]


def last_change(url: str) -> float | None:
    """Seconds since something was written into an unfinished folder; None where nobody can tell."""
    files = (*files_under(join(url, PARTS)), *files_under(join(url, TEMPORARY)))
    times = [file.changed for file in files if file.changed]
    return time.time() - max(times) if times else None
