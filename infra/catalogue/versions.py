"""The dataset versions of a store: committed, withdrawn, or begun and left.

For a takedown, which has no use for what lies in their folders: no other manifest is read.
"""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from infra import artifacts
from infra.artifacts import PARTS, Artifact
from infra.catalogue.folders import AT_ONCE, version_folders
from infra.catalogue.nodes import COMMITTED, DATASET, UNFINISHED
from infra.digests import DIGEST_LENGTH
from infra.drawn import is_drawn
from infra.filesystem import TEMPORARY, join
from infra.filesystem.entries import files_under
from infra.withdrawn import WITHDRAWN_FILE, Withdrawal, read_withdrawal

_VERSION = re.compile(rf"[0-9a-f]{{{DIGEST_LENGTH}}}")
HOLDS = {PARTS, "rows", "shards"}  # what is in the folder of a version that was begun


def name_of(artifact: Artifact) -> str:
    """NAME@VERSION of a dataset version."""
    return "@".join(artifact.url.rstrip("/").split("/")[-2:])


def versions(store: str) -> list[Artifact]:
    """The committed versions of a store that have files, by NAME@VERSION."""
    urls = [folder.url for folder in version_folders(store) if folder.state == COMMITTED]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        loaded = [each for each in threads.map(artifacts.load, urls) if each is not None]
    found = [each for each in loaded if each.kind == DATASET and not is_drawn(each)]
    return sorted(found, key=name_of)


def unfinished(store: str) -> list[str]:
    """Folders of versions that were begun and neither committed nor withdrawn.

    Those that hold files of a version: what else lies in a store is nobody's to judge by its name.
    """
    return [
        folder.url
        for folder in version_folders(store)
        if folder.state == UNFINISHED
        and _VERSION.fullmatch(folder.name)
        and HOLDS & {*folder.folders}
    ]


def withdrawals(store: str) -> Iterator[tuple[str, Withdrawal]]:
    """The folders of a store's withdrawn versions, and what became of them."""
    for folder in version_folders(store):
        found = read_withdrawal(folder.url) if WITHDRAWN_FILE in folder.files else None
        if found is not None:
            yield folder.url, found


def last_change(url: str) -> float | None:
    """Seconds since something was written into an unfinished folder; None where nobody can tell."""
    files = (*files_under(join(url, PARTS)), *files_under(join(url, TEMPORARY)))
    times = [file.changed for file in files if file.changed]
    return time.time() - max(times) if times else None
