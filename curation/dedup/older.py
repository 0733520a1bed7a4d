"""What an older version's search left for a later one: the pairs of what both compare.

A pair depends on the two hashes, or vectors, that were compared, and on nothing else. So rows are
found again by these: wherever the row stands now, under whichever uid, its pairs hold; a row whose
hash or vector changed is a new one, and pairs of rows that are gone are left out.
"""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.columns import artifact_at, dataset_at, older_at
from curation.dedup.images import Ids, Images, Words
from curation.dedup.stars import by_hashes, leaders
from curation.rules_settings import HASH_BITS, DedupSettings
from infra import filesystem
from infra.artifacts import Artifact
from infra.errors import SluiceError
from infra.filesystem import join

EDGES_FILE = "edges.parquet"
PERCEPTUAL_KIND = "perceptual"
AT_ONCE = 1 << 21  # words sorted at once

Similarities = npt.NDArray[np.float32]


def read_edges(url: str) -> pa.Table:
    """The pairs of a search; `kind` is a dictionary, as there are few kinds and many pairs."""
    with filesystem.open_read(join(url, EDGES_FILE)) as file:
        return pq.ParquetFile(file, read_dictionary=["kind"]).read(use_threads=False)


def older_url(store: str, settings: DedupSettings) -> str | None:
    """Where the pairs are that this search goes on from."""
    return older_at(store, settings.after, "edges")


@dataclass(frozen=True)
class Found:
    """The pairs that are known of rows in an order of their own: places in it, a < b."""

    order: Ids | None  # the known rows, then the new ones; None: as they came, all new
    known: int  # how many are known
    a: Ids
    b: Ids
    similarity: Similarities

    @staticmethod
    def nothing() -> "Found":
        none = np.empty(0, np.int64)
        return Found(None, 0, none, none, np.empty(0, np.float32))


class Older:
    """The search that a later one goes on from."""

    def __init__(self, url: str) -> None:
        self.artifact: Artifact = artifact_at(url)
        settings = self.artifact.settings
        if self.artifact.kind != "edges" or "scores" not in settings:
            raise SluiceError(
                f"dedup.after names {url}, which holds no pairs to go on from",
                "name NAME@VERSION/EDGES of a search, or leave out dedup.after",
            )
        self.settings: dict[str, Any] = dict(settings)
        self.folders: dict[str, str] = dict(settings["scores"])
        self.images = leaders(
            dataset_at(url.rpartition("/edges/")[0]), self.folders, self.settings["pixels"]
        )

    def hashes(self, hashes: Words, radius: int) -> Found:
        """What is known of `hashes` [n, 2], all different; nothing where it looked less far."""
        looked = self.settings["radius_floor"]
        if looked is None or looked < radius:
            return Found.nothing()
        images, words, _, _ = by_hashes(self.images, self.folders)
        least = np.float32(1 - radius / HASH_BITS)
        return self._found(PERCEPTUAL_KIND, images, words, hashes, least)

    def vectors(self, name: str, floor: float, images: Images, folder: str, scratch: str) -> Found:
        """What is known of the vectors of `images`; nothing where it looked less far."""
        looked = self.settings["near"].get(name)
        if looked is None or looked > floor:
            return Found.nothing()
        scorer, _, vector = name.partition("/")
        now = images.vector_words(folder, vector, scratch)
        words = self.images.vector_words(self.folders[scorer], vector, scratch)
        return self._found(name, self.images, words, now, np.float32(floor))

    def _found(
        self, kind: str, images: Images, words: Words, now: Words, least: np.float32
    ) -> Found:
        ids, pairs = images.ids(), self._pairs(kind, least)
        a, b = (np.searchsorted(ids, pairs[name].to_numpy()) for name in ("a", "b"))
        then = matching(now, words)
        order = np.argsort(then < 0, kind="stable")
        known = int(np.count_nonzero(then >= 0))
        place = np.full(len(words), -1)
        place[then[order[:known]]] = np.arange(known)
        a, b = place[a], place[b]
        both = (a >= 0) & (b >= 0)
        a, b = np.minimum(a, b)[both], np.maximum(a, b)[both]
        return Found(order, known, a, b, pairs["similarity"].to_numpy()[both])

    def _pairs(self, kind: str, least: np.float32) -> pa.Table:
        """The pairs of different hashes, or of vectors, from a similarity on."""
        edges = read_edges(self.artifact.url)
        wanted = pc.and_(
            pc.equal(edges["kind"], kind), pc.greater_equal(edges["similarity"], pa.scalar(least))
        )
        if kind == PERCEPTUAL_KIND:
            wanted = pc.and_(wanted, pc.less(edges["similarity"], 1))  # else it is of a star
        return edges.filter(wanted)


def matching(words: Words, older: Words) -> Ids:
    """For each row of `words` [n, 2] one of `older` [m, 2] that is equal, -1 without: int64 [n].

    No two rows get the same one: of equal rows the first gets the first.
    """
    found = np.full(len(words), -1)
    # Part by part, by a few bits of the words, so that what is sorted at once is small.
    bits = ((len(words) + len(older)) // AT_ONCE).bit_length()
    mask = np.uint64((1 << bits) - 1)
    parts = [(each[:, 0] & mask).astype(np.uint16) for each in (words, older)]
    for part in range(1 << bits):
        ours, theirs = (np.flatnonzero(each == part) for each in parts)
        found[ours] = _matching(words[ours], older[theirs], theirs)
    return found


def _matching(words: Words, older: Words, theirs: Ids) -> Ids:
    count = len(older)
    every = np.concatenate([older, words])
    order = np.lexsort((every[:, 1], every[:, 0]))  # stable: older ones first
    every = every[order]
    places = np.arange(len(order))
    first = np.ones(len(order), bool)
    first[1:] = (every[1:] != every[:-1]).any(axis=1)
    start = np.maximum.accumulate(np.where(first, places, 0))
    new = order >= count
    before = np.concatenate([[0], np.cumsum(~new)])
    held = before[places] - before[start]  # older ones of the group, of those before here
    partner = start + (places - start - held)  # the n-th new one gets the n-th older one
    found = np.full(len(words), -1)
    has = new & (places - start - held < held)
    found[order[has] - count] = theirs[order[partner[has]]]
    return found
