"""The pairs of a dataset, rung by rung, stored once down to floors.

Rows with equal bytes are a star around the one with the lowest id, and only that one goes on to
the next rung; so are rows with equal pixels. Rows with equal perceptual hashes are a star as
well, of which one alone is compared with other hashes: a placeholder found a million times costs
a million pairs on each rung, and not 10^12. All of that star go on to the embeddings, which may
tell them apart. Where an older search is named, its pairs are taken for the rows that it compared,
and only those that some new row makes are looked for (`older.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.columns import dataset_at, folder_digest, score_folder
from curation.dedup.images import HASH_SCORER, Ids, Images, reordered, stored
from curation.dedup.older import PERCEPTUAL_KIND, Found, Older
from curation.dedup.stars import Star, by_bytes, by_hashes, by_pixels
from curation.dedup.stored import Edges, write_edges
from curation.rules_settings import HASH_BITS, DedupSettings, NearSettings
from indexes.hamming import hamming_pairs
from indexes.neighbours import EXACT_LIMIT, pair_recall, range_pairs
from infra.artifacts import Part, Spec
from infra.dataset import Dataset
from infra.errors import SluiceError
from infra.filesystem import join
from infra.stage import Draft, Item

CODE = 3
EXACT_KIND, PIXELS_KIND = "exact", "pixels"
ALL = Item("all", None)  # the one unit of work of a stage that must see everything


def edges_draft(
    dataset_url: str,
    dataset_digest: str,
    score_folders: Mapping[str, str],
    settings: DedupSettings,
) -> Draft:
    """The pairs of a dataset; thresholds, `exact` and `priority` are decided later, on them."""
    folders = _folders(score_folders, settings)
    search = {
        "pixels": settings.pixels,
        "radius_floor": settings.radius_floor if settings.perceptual else None,
        "near": {each.vectors: each.floor for each in settings.near},
        "scores": folders,
        "after": settings.after,
    }
    parents = (dataset_digest, *(folder_digest(each) for each in sorted(set(folders.values()))))
    spec = Spec("edges", "curation.dedup", search, parents, CODE)
    return Draft(join(dataset_url, "edges", spec.digest), spec)


def _folders(score_folders: Mapping[str, str], settings: DedupSettings) -> dict[str, str]:
    """The score folders that the rungs read, by scorer."""
    wanted = [(HASH_SCORER, "dedup.pixels")] * settings.pixels
    wanted += [(HASH_SCORER, "dedup.perceptual")] * settings.perceptual
    wanted += [(each.vectors.partition("/")[0], "dedup.near") for each in settings.near]
    return {scorer: score_folder(score_folders, scorer, user) for scorer, user in wanted}


@dataclass(frozen=True)
class EdgesWork:
    """Finds all pairs of a dataset: one unit of work, `ALL`."""

    url: str
    dataset_url: str
    score_folders: Mapping[str, str]
    settings: DedupSettings
    after_url: str | None = None  # the search that this one goes on from

    def __call__(self, value: object, todo: Sequence[str]) -> dict[str, Part]:
        dataset = dataset_at(self.dataset_url)
        older = Older(self.after_url) if self.after_url else None
        climb = Climb(self.url, self.score_folders, older)
        images = climb.equal(dataset, self.settings.pixels)
        try:
            if self.settings.perceptual:
                climb.perceptual(images, self.settings.radius_floor)
            for search in self.settings.near:
                climb.near(images, search)
        except SluiceError as error:
            raise SluiceError(f"{dataset.url}: {error.what}", error.way_out) from error
        count = climb.count()
        file = write_edges(self.url, climb.pairs)
        return {"": Part(ALL.name, (file,), count, count, extra=climb.figures)}


@dataclass
class Climb:
    """What the rungs have found so far."""

    url: str  # of the artifact that is being made
    folders: Mapping[str, str]
    older: Older | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    pairs: list[Edges] = field(default_factory=list)

    def equal(self, dataset: Dataset, pixels: bool) -> Images:
        """Stars of equal bytes and of equal pixels; returns the rows that go on."""
        self.figures["images"], images, star = by_bytes(dataset)
        self._add_star(EXACT_KIND, star)
        if pixels:
            images, star = by_pixels(images, self.folders)
            self._add_star(PIXELS_KIND, star)
        return images

    def perceptual(self, images: Images, radius: int) -> None:
        """Pairs whose pHashes and dHashes both differ in `radius` bits or fewer."""
        compared = self.older.hashes(radius, self.url) if self.older else None
        distinct, hashes, star, silent = by_hashes(images, self.folders)
        self._add_star(PERCEPTUAL_KIND, star)
        alike = len(star[0])
        del star
        found = Found.nothing()
        if compared:
            hashes = stored(hashes, self.url)
            found = compared.found(hashes, self.url)
        if found.met is not None:
            hashes = reordered(hashes, found.met, self.url)
        try:
            a, b, distance = hamming_pairs(hashes, radius, known=found.known)
        except SluiceError as error:
            raise SluiceError(error.what, "lower dedup.radius_floor") from error
        del hashes
        similarity = (1 - distance / HASH_BITS).astype(np.float32)
        self._add_found(PERCEPTUAL_KIND, distinct, found, (a, b, similarity))
        self.figures["without_perceptual_hash"] = silent
        self.figures[PERCEPTUAL_KIND] += alike

    def near(self, images: Images, search: NearSettings) -> None:
        """Pairs of similar vectors, and the share of all such pairs they are."""
        scorer, _, vector = search.vectors.partition("/")
        folder = score_folder(self.folders, scorer, "dedup.near")
        compared, found = None, Found.nothing()
        if self.older:
            compared = self.older.vectors(search.vectors, search.floor, self.url)
        vectors = images.vectors(folder, vector, self.url)
        if compared:
            words = images.vector_words(folder, vector, self.url)
            found = compared.found(words, self.url)
        if found.met is not None:
            vectors = reordered(vectors, found.met, self.url)
        try:
            new = range_pairs(vectors, search.floor, known=found.known)
        except SluiceError as error:
            raise SluiceError(
                f"{search.vectors}: {error.what}", "raise its floor in dedup.near"
            ) from error
        # Up to the limit all pairs are compared; beyond, a sample tells what was missed.
        recall = 1.0
        if len(vectors) > EXACT_LIMIT:
            a, b = np.concatenate([found.a, new[0]]), np.concatenate([found.b, new[1]])
            recall = round(pair_recall(vectors, a, b, search.floor), 4)
            del a, b
        similarity = np.minimum(new[2], 1)
        self._add_found(search.vectors, images, found, (new[0], new[1], similarity))
        self.figures.setdefault("recall", {})[search.vectors] = recall

    def count(self) -> int:
        return sum(len(pairs.a) for pairs in self.pairs)

    def _add_star(self, kind: str, star: Star) -> None:
        self._add(kind, *star, np.ones(len(star[0]), np.float32))

    def _add_found(
        self,
        kind: str,
        images: Images,
        found: Found,
        new: tuple[Ids, Ids, npt.NDArray[np.float32]],
    ) -> None:
        """The pairs that are known, and the new ones, by places in the order of `found`."""
        ids = images.ids()
        if found.met is not None:
            ids = np.concatenate([ids[found.met], ids[~found.met]])
        a = ids[np.concatenate([found.a, new[0]])]
        b = ids[np.concatenate([found.b, new[1]])]
        similarity = np.concatenate([found.similarity, new[2]])
        self._add(kind, np.minimum(a, b), np.maximum(a, b), similarity)
        if self.older:
            self.figures.setdefault("known", {})[kind] = found.known

    def _add(self, kind: str, a: Ids, b: Ids, similarity: npt.NDArray[np.float32]) -> None:
        # On disk till all are sorted: the next rung needs the memory.
        self.pairs.append(Edges(kind, *(stored(each, self.url) for each in (a, b, similarity))))
        self.figures[kind] = len(a)
