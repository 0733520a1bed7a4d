"""Words of lists that a recipe names, such as blocked ones, in the caption."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from curation.score import Batch, Scores, filled
from curation.units import column
from infra import filesystem
from infra.errors import SluiceError

WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class WordsScorer:
    """Column `matches`, int32: places of the caption where an entry of the list stands; null for
    rows rejected at ingest.

    name: the recipe's name for it, such as `blocked`. file: text, UTF-8, one entry in each line,
    of one or more words; whole words are compared, whatever their case. In scripts without
    spaces an entry must be the whole run of letters.
    """

    name: str
    file: str

    code = 1
    reads_images = False
    reads_vectors = ()
    vectors = ()
    columns = pa.schema([column("matches", pa.int32(), "places in the caption")])

    def settings(self) -> Mapping[str, Any]:
        return {"kind": "words", "file": hashlib.sha256(_read(self.file)).hexdigest()}

    def score(self, batch: Batch) -> Scores:
        positions, entries = batch.valid, read_entries(self.file)
        captions: list[str | None] = batch.rows["caption"].to_pylist()
        values = [matches(captions[row] or "", entries) for row in positions]
        return Scores(pa.table({"matches": filled(len(batch), positions, values, pa.int32())}))


@dataclass(frozen=True)
class Entries:
    """The entries of a list as tuples of words, and how long those are that start with a word."""

    entries: frozenset[tuple[str, ...]]
    lengths: Mapping[str, tuple[int, ...]]


def matches(caption: str, entries: Entries) -> int:
    """At how many places of a caption an entry stands."""
    words = WORD.findall(caption.casefold())
    found = 0
    for place, word in enumerate(words):
        found += any(
            tuple(words[place : place + length]) in entries.entries
            for length in entries.lengths.get(word, ())
        )
    return found


@lru_cache(maxsize=4)
def read_entries(url: str) -> Entries:
    """The entries of the list at `url`. Raises SluiceError where there are none."""
    lines = _read(url).decode("utf-8-sig", "replace").splitlines()
    entries = frozenset(words for line in lines if (words := tuple(WORD.findall(line.casefold()))))
    if not entries:
        raise SluiceError(f"{url} holds no words", "write one entry in each line")
    lengths: dict[str, set[int]] = {}
    for entry in entries:
        lengths.setdefault(entry[0], set()).add(len(entry))
    return Entries(entries, {word: tuple(sorted(found)) for word, found in lengths.items()})


def _read(url: str) -> bytes:
    try:
        return filesystem.read_bytes(url)
    except OSError as error:
        raise SluiceError(
            f"the list of words {url} cannot be read: {error}", "check the score's file"
        ) from error
