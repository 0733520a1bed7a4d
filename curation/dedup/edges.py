"""The pairs of a dataset, rung by rung, stored once down to floors.

Rows with equal bytes are a star around the one with the lowest id, and only that one goes on to
the next rung; so are rows with equal pixels. Rows with equal perceptual hashes are a star as
well, of which one alone is compared with other hashes: a placeholder found a million times costs
a million pairs on each rung, and not 10^12. All of that star go on to the embeddings, which may
tell them apart.
"""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.columns import dataset_at, folder_digest, read_columns, read_vectors, score_folder
from curation.rules_settings import HASH_BITS, DedupSettings, NearSettings
from indexes.hamming import hamming_pairs
from indexes.neighbours import EXACT_LIMIT, pair_recall, range_pairs
from infra.artifacts import Part, Spec
from infra.dataset import ROW_BITS, Dataset, write_table
from infra.errors import SluiceError
from infra.filesystem import join
from infra.stage import Draft, Item

CODE = 2
EDGES_FILE = "edges.parquet"
EXACT_KIND, PIXELS_KIND, PERCEPTUAL_KIND = "exact", "pixels", "perceptual"
EDGES = pa.schema(
    [
        ("a", pa.int64()),  # index ids, shard << 20 | row; a < b
        ("b", pa.int64()),
        ("kind", pa.string()),  # one of the three above, or the vectors compared: SCORER/VECTOR
        ("similarity", pa.float32()),  # 1; 1 - bits / 64 of the hashes; cosine
    ]
)
ALL = Item("all", None)  # the one unit of work of a stage that must see everything
HASH_SCORER = "hash"
LEAST_BITS = 16  # a pHash has 32 bits set, fewer where the picture has hardly a frequency

Ids = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


def edges_draft(
    dataset_url: str,
    dataset_digest: str,
    score_folders: Mapping[str, str],
    settings: DedupSettings,
) -> Draft:
    """The pairs of a dataset; thresholds, `exact` and `priority` are decided later, on them."""
    search = {
        "pixels": settings.pixels,
        "radius_floor": settings.radius_floor if settings.perceptual else None,
        "near": {each.vectors: each.floor for each in settings.near},
    }
    folders = sorted(set(_folders(score_folders, settings).values()))
    parents = (dataset_digest, *(folder_digest(folder) for folder in folders))
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

    def __call__(self, value: object, todo: Sequence[str]) -> dict[str, Part]:
        dataset = dataset_at(self.dataset_url)
        images = read_images(dataset, self.score_folders, self.settings)
        climb = Climb(len(images.ids))
        images = climb.star(EXACT_KIND, images, images.sha256)
        if self.settings.pixels:
            images = climb.star(PIXELS_KIND, images, images.pixels)
        try:
            if self.settings.perceptual:
                climb.perceptual(images, self.settings.radius_floor)
            for search in self.settings.near:
                climb.near(dataset, self.score_folders, images.ids, search)
        except SluiceError as error:
            raise SluiceError(f"{dataset.url}: {error.what}", error.way_out) from error
        edges = climb.edges()
        file = write_table(self.url, EDGES_FILE, edges)
        part = Part(ALL.name, (file,), edges.num_rows, edges.num_rows, extra=climb.figures)
        return {"": part}


@dataclass(frozen=True)
class Images:
    """The rows that hold an image, by ascending id [n]; zero words where a hash is missing."""

    ids: Ids
    sha256: Words  # [n, 2], of the bytes: 128 bits are enough
    pixels: Words  # [n, 2], of the decoded pixels
    hashes: Words  # [n, 2], pHash and dHash

    def take(self, chosen: npt.NDArray[Any]) -> "Images":
        return Images(
            self.ids[chosen], self.sha256[chosen], self.pixels[chosen], self.hashes[chosen]
        )


@dataclass
class Climb:
    """What the rungs have found so far."""

    images: int
    figures: dict[str, Any] = field(default_factory=dict)
    tables: list[pa.Table] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.figures["images"] = self.images

    def star(self, kind: str, images: Images, words: Words) -> Images:
        """Join the images with equal `words` [n, k] to the first of them; those go on.

        Zero words are a missing hash, and equal to nothing.
        """
        first = leaders(images.ids, words)
        copies = (first != images.ids) & words.any(axis=1)
        self._add(kind, first[copies], images.ids[copies], np.ones(copies.sum(), np.float32))
        return images.take(~copies)

    def perceptual(self, images: Images, radius: int) -> None:
        """Pairs whose pHashes and dHashes both differ in `radius` bits or fewer."""
        told = telling(images.hashes)
        self.figures["without_perceptual_hash"] = int((~told).sum())
        images = images.take(told)
        before = len(self.tables)
        distinct = self.star(PERCEPTUAL_KIND, images, images.hashes)
        try:
            a, b, distance = hamming_pairs(distinct.hashes, radius)
        except SluiceError as error:
            raise SluiceError(error.what, "lower dedup.radius_floor") from error
        similarity = (1 - distance / HASH_BITS).astype(np.float32)
        self._add(PERCEPTUAL_KIND, distinct.ids[a], distinct.ids[b], similarity)
        self.figures[PERCEPTUAL_KIND] = sum(table.num_rows for table in self.tables[before:])

    def near(
        self, dataset: Dataset, folders: Mapping[str, str], ids: Ids, search: NearSettings
    ) -> None:
        """Pairs of similar vectors, and the share of all such pairs they are."""
        folder = score_folder(folders, search.vectors.partition("/")[0], "dedup.near")
        vectors = gather_vectors(dataset, folder, search.vectors, ids)
        try:
            a, b, similarity = range_pairs(vectors, search.floor)
        except SluiceError as error:
            raise SluiceError(
                f"{search.vectors}: {error.what}", "raise its floor in dedup.near"
            ) from error
        # Up to the limit all pairs are compared; beyond, a sample tells what was missed.
        recall = 1.0
        if len(ids) > EXACT_LIMIT:
            recall = round(pair_recall(vectors, a, b, search.floor), 4)
        self._add(search.vectors, ids[a], ids[b], np.minimum(similarity, 1))
        self.figures.setdefault("recall", {})[search.vectors] = recall

    def edges(self) -> pa.Table:
        """All pairs, sorted."""
        order = [(name, "ascending") for name in ("a", "b", "kind")]
        return pa.concat_tables([EDGES.empty_table(), *self.tables]).sort_by(order)

    def _add(self, kind: str, a: Ids, b: Ids, similarity: npt.NDArray[np.float32]) -> None:
        self.tables.append(pa.table([a, b, pa.repeat(kind, len(a)), similarity], schema=EDGES))
        self.figures[kind] = len(a)


def gather_vectors(dataset: Dataset, folder: str, name: str, ids: Ids) -> npt.NDArray[np.float16]:
    """The vectors `name` (SCORER/VECTOR) of the rows `ids`, sorted: float16 [len(ids), dim]."""
    found: list[npt.NDArray[np.float16]] = []
    for shard in sorted(dataset.shards):
        vectors = read_vectors(dataset.url, folder, name.partition("/")[2], shard)
        low, high = np.searchsorted(ids, [shard << ROW_BITS, (shard + 1) << ROW_BITS])
        found.append(vectors[ids[low:high] & (1 << ROW_BITS) - 1])
    return np.concatenate(found) if found else np.empty((0, 1), np.float16)


def read_images(dataset: Dataset, folders: Mapping[str, str], settings: DedupSettings) -> Images:
    """All rows that hold an image, with the hashes that the rungs compare."""
    names = [f"{HASH_SCORER}.pixel_sha256"] * settings.pixels
    names += [f"{HASH_SCORER}.phash", f"{HASH_SCORER}.dhash"] * settings.perceptual
    empty = np.empty((0, 2), np.uint64)
    found = [Images(np.empty(0, np.int64), empty, empty, empty)]
    for shard in sorted(dataset.shards):
        rows = dataset.rows(shard, ["row", "status", "sha256"])
        columns = read_columns(dataset.url, folders, shard, names)
        usable = pc.and_(pc.equal(rows["status"], "ok"), rows["sha256"].is_valid())
        rows, columns = rows.filter(usable), columns.filter(usable)
        none = pa.nulls(rows.num_rows)
        pixels, first, second = (
            columns[f"{HASH_SCORER}.{name}"] if f"{HASH_SCORER}.{name}" in names else none
            for name in ("pixel_sha256", "phash", "dhash")
        )
        found.append(
            Images(
                rows["row"].to_numpy().astype(np.int64) | shard << ROW_BITS,
                hex_words(rows["sha256"].to_pylist()),
                hex_words(pixels.to_pylist()),
                hash_words(first, second),
            )
        )
    parts = ("ids", "sha256", "pixels", "hashes")
    return Images(*(np.concatenate([getattr(each, part) for each in found]) for part in parts))


def hex_words(digests: Sequence[str | None]) -> Words:
    """The first 128 bits of SHA-256 digests, uint64 [n, 2]; zero where there is none."""
    data = bytes.fromhex("".join([digest or "0" * HASH_BITS for digest in digests]))
    return np.frombuffer(data, np.uint64).reshape(-1, 4)[:, :2]


def hash_words(phash: pa.ChunkedArray | pa.Array, dhash: pa.ChunkedArray | pa.Array) -> Words:
    """Perceptual hashes, uint64 [n, 2]; zero where there is none."""
    columns = [column.cast(pa.uint64()).fill_null(0).to_numpy() for column in (phash, dhash)]
    return np.stack(columns, axis=1)


def telling(hashes: Words) -> npt.NDArray[np.bool_]:
    """Whether hashes [n, 2] say enough of a picture to be compared: a flat one's do not."""
    return np.bitwise_count(hashes[:, 0]) >= LEAST_BITS


def leaders(ids: Ids, words: Words) -> Ids:
    """For each row the lowest id with the same words. ids [n], words [n, k] -> int64 [n]."""
    order = np.lexsort((ids, *words.T))
    ordered = words[order]
    starts = np.ones(len(ids), bool)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.maximum.accumulate(np.where(starts, np.arange(len(ids)), 0))
    found = np.empty_like(ids)
    found[order] = ids[order][first]
    return found
