"""What runs write into a store beside what they make.

<store>/status/<run>/    the page of a run, written anew every few seconds while it goes on
<store>/jobs/<name>/     the order of a job; twice a minute, that somebody waits for it
"""

import re
from dataclasses import dataclass

from infra.filesystem import join
from infra.filesystem.entries import files_under

PAGES, JOBS = "status", "jobs"
NAMES = {  # of their folders: one of another name is somebody else's
    PAGES: re.compile(r"\d{8}T\d{6}Z-.+-[0-9a-f]{6}"),
    JOBS: re.compile(r"sluice-.*-[0-9a-f]{16}"),
}


@dataclass(frozen=True)
class Note:
    """Such a folder. changed: when it was last written to, seconds since 1970; 0 if unknown."""

    place: str
    changed: float
    bytes: int


def notes(store: str, kind: str) -> list[Note]:
    """The pages or the jobs of a store, those written to last first."""
    found: dict[str, Note] = {}
    for entry in files_under(join(store, kind)):
        name = entry.url[len(join(store, kind)) + 1 :].partition("/")[0]
        if NAMES[kind].fullmatch(name):
            place = f"{kind}/{name}"
            known = found.get(place, Note(place, 0.0, 0))
            changed = max(known.changed, entry.changed)
            found[place] = Note(place, changed, known.bytes + entry.bytes)
    return sorted(found.values(), key=lambda note: -note.changed)
