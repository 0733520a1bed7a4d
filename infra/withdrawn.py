"""Withdrawn versions: what a takedown went through is gone, and says which version came after.

<store>/<dataset>/<version>/withdrawn.json    put before the manifest goes: there is always one

A withdrawn folder keeps no rows and no scores; only tars of shards that the takedown did not touch
may still lie in it, because later versions read them where they are.
"""

import contextlib
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from infra import filesystem
from infra.digests import canonical_json
from infra.filesystem import join

WITHDRAWN_FILE = "withdrawn.json"


@dataclass(frozen=True)
class Withdrawal:
    """takedown: its id, <store>/takedowns/<id>. successor: a version of the same dataset."""

    takedown: str
    successor: str


def read_withdrawal(url: str) -> Withdrawal | None:
    """What became of the version whose folder is `url`; None where it was not withdrawn."""
    try:
        return Withdrawal(**filesystem.read_json(join(url, WITHDRAWN_FILE)))
    except (FileNotFoundError, NotADirectoryError):
        return None


def withdraw(url: str, manifest: str, withdrawal: Withdrawal) -> None:
    """Withdraw the version at `url`, which has a manifest of that name; again changes nothing."""
    filesystem.put_if_absent(url, WITHDRAWN_FILE, canonical_json(asdict(withdrawal)))
    filesystem.remove_file(join(url, manifest))


def clean_withdrawn(url: str, keep: Collection[str]) -> list[str]:
    """Remove all files of a withdrawn version but its notice and those of `keep`, by URL.

    Returns what is gone.
    """
    kept = {join(url, WITHDRAWN_FILE), *keep}
    gone = [file for file in filesystem.list_files(url) if file not in kept]
    filesystem.remove_files(gone)
    if filesystem.is_local(url):
        _remove_empty_folders(Path(filesystem.resolve(url)[1]))
    return gone


def _remove_empty_folders(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.rmdir()


def newest(url: str) -> str:
    """The folder of the version that took the place of the one at `url`; itself if none did."""
    seen = {url}
    while (found := read_withdrawal(url)) is not None:
        url = join(url.rstrip("/").rpartition("/")[0], found.successor)
        if url in seen:
            break
        seen.add(url)
    return url
