"""What an older version's search left for a later one: the pairs of what both compare.

A pair depends on the two hashes, or vectors, that were compared, and on nothing else. So rows are
found again by these: wherever the row stands now, under whichever uid, its pairs hold; a row whose
hash or vector changed is a new one, and pairs of rows that are gone are left out.
"""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.columns import artifact_at, dataset_at, older_at
from curation.dedup.images import Bools, Images, Words, stored
from curation.dedup.stars import by_hashes, leaders
from curation.dedup.stored import EDGES_FILE, Similarities
from curation.rules_settings import HASH_BITS, DedupSettings
from infra import filesystem
from infra.artifacts import Artifact
from infra.errors import SluiceError
from infra.filesystem import join

PERCEPTUAL_KIND = "perceptual"
AT_ONCE = 1 << 18  # pairs read at once

Places = npt.NDArray[np.signedinteger[Any]]  # int32 where there are few enough


def older_url(store: str, settings: DedupSettings) -> str | None:
    """Where the pairs are that this search goes on from."""
    return older_at(store, settings.after, "edges")


@dataclass(frozen=True)
class Found:
    """The pairs that are known of rows in an order of their own: the known rows, then the new."""

    met: Bools | None  # whether a row is known; None: as they came, all new
    known: int  # how many are known
    a: Places  # in that order, a < b
    b: Places
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

    def hashes(self, radius: int, scratch: str) -> "Compared | None":
        """The hashes that it compared; None where it looked less far."""
        looked = self.settings["radius_floor"]
        if looked is None or looked < radius:
            return None
        images, words, _, _ = by_hashes(self.images, self.folders)
        least = np.float32(1 - radius / HASH_BITS)
        return Compared(self.artifact.url, PERCEPTUAL_KIND, least, images, stored(words, scratch))

    def vectors(self, name: str, floor: float, scratch: str) -> "Compared | None":
        """The vectors that it compared; None where it looked less far."""
        looked = self.settings["near"].get(name)
        if looked is None or looked > floor:
            return None
        scorer, _, vector = name.partition("/")
        words = self.images.vector_words(self.folders[scorer], vector, scratch)
        return Compared(self.artifact.url, name, np.float32(floor), self.images, words)


@dataclass(frozen=True)
class Compared:
    """What the older search compared on a rung, and its pairs from a similarity on."""

    url: str
    kind: str
    least: np.float32
    images: Images
    words: Words  # of these, mapped

    def found(self, words: Words, scratch: str) -> Found:
        """What is known of rows that have these words [n, 2]; its pairs are mapped."""
        then = matching(words, self.words)
        met = then >= 0
        known = int(np.count_nonzero(met))
        place = np.full(len(self.words), -1, then.dtype)
        place[then[met]] = np.arange(known, dtype=then.dtype)
        del then
        of_row = np.full(len(self.images.present), -1, place.dtype)
        of_row[self.images.present] = place
        del place
        pairs = [(np.empty(0, of_row.dtype), np.empty(0, of_row.dtype), np.empty(0, np.float32))]
        for batch in self._pairs():
            a, b = (of_row[self.images.positions(batch[name].to_numpy())] for name in ("a", "b"))
            both = (a >= 0) & (b >= 0)
            a, b = np.minimum(a, b)[both], np.maximum(a, b)[both]
            pairs.append((a, b, batch["similarity"].to_numpy()[both]))
        joined = (np.concatenate(each) for each in zip(*pairs, strict=True))
        return Found(met, known, *(stored(each, scratch) for each in joined))

    def _pairs(self) -> Iterator[pa.RecordBatch]:
        """The pairs of different hashes, or of vectors, part by part."""
        with filesystem.open_read(join(self.url, EDGES_FILE)) as file:
            edges = pq.ParquetFile(file, read_dictionary=["kind"])
            for batch in edges.iter_batches(AT_ONCE, use_threads=False):
                wanted = pc.and_(
                    pc.equal(batch["kind"], self.kind),
                    pc.greater_equal(batch["similarity"], pa.scalar(self.least)),
                )
                if self.kind == PERCEPTUAL_KIND:
                    wanted = pc.and_(wanted, pc.less(batch["similarity"], 1))  # else of a star
                yield batch.filter(wanted)


def matching(words: Words, older: Words) -> Places:
    """For each row of `words` [n, 2] one of `older` [m, 2] that is equal, -1 without: [n].

    No two rows get the same one: of equal rows the first gets the first. One sort of 8 bytes a row.
    """
    from curation.dedup import equal  # what it imports costs a third of a second

    most = max(len(words), len(older))
    bits = np.uint64(max(1, most.bit_length()))
    keys, older_keys = equal.row_keys(words, bits), equal.row_keys(older, bits)
    keys.sort()
    older_keys.sort()
    found = np.empty(len(words), np.int32 if most < 2**31 else np.int64)
    equal.matches(keys, older_keys, bits, words, older, found)
    return found
