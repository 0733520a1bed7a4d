"""Contamination: how close each image of the pool is to the evaluation sets.

A score like any other, row-aligned, so that the threshold is a rule: equal bytes, equal pixels,
the distance of perceptual hashes and the cosine similarity of vectors, each to the closest image
of all sets. The image named is the best hit: by bytes, else by pixels, else by similarity.
"""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.columns import (
    artifact_at,
    dataset_at,
    folder_digest,
    read_columns,
    read_vectors,
    score_folder,
)
from curation.dedup.images import HASH_SCORER, hash_words
from curation.dedup.stars import telling
from curation.rules_settings import ContaminationSettings
from curation.units import BETTER, WORSE, column
from indexes.hamming import closest
from indexes.neighbours import nearest
from infra.artifacts import Part, Spec
from infra.dataset import part_name, write_table
from infra.errors import SluiceError
from infra.filesystem import join
from infra.stage import Draft, Item

CODE = 2
NAME = "contamination"
COLUMNS = pa.schema(
    [
        column("eval_similarity", pa.float32(), "cosine", WORSE),  # to the closest, where known
        ("eval_uid", pa.string()),  # the best hit
        ("eval_set", pa.string()),  # and the set it is in
        ("eval_exact", pa.bool_()),  # its bytes are an evaluation image's; null where rejected
        ("eval_pixels", pa.bool_()),  # so are its pixels; null where they are not known
        column("eval_distance", pa.uint8(), "bits of 64", BETTER),  # pHash and dHash; null: flat
    ]
)
FOUND_BY = ("exact", "pixels", "perceptual", "near", "any")
NO_HASH = 255
HASHES = ("pixel_sha256", "phash", "dhash")
IMAGE = ["rows.uid", "rows.status", "rows.sha256", *(f"{HASH_SCORER}.{name}" for name in HASHES)]


@dataclass(frozen=True)
class EvaluationSet:
    """An evaluation set that was ingested and scored."""

    name: str
    url: str
    digest: str
    folders: Mapping[str, str]


@dataclass(frozen=True)
class Reference:
    """What is not to be found in the pool: [m] vectors and [k] hashes, with their uids."""

    sha256: Mapping[str, str]  # of bytes -> uid
    pixels: Mapping[str, str]  # SHA-256 of pixels -> uid
    vectors: npt.NDArray[np.float16]
    vector_uids: Sequence[str]
    hashes: npt.NDArray[np.uint64]  # [k, 2]
    hash_uids: Sequence[str]


@dataclass(frozen=True)
class Hits:
    """The closest image of one set to each row; all arrays [n]."""

    exact: npt.NDArray[np.bool_]
    pixels: npt.NDArray[np.bool_]
    distance: npt.NDArray[np.int64]  # NO_HASH where there is none
    similarity: npt.NDArray[np.float32]  # NaN where there is none
    uids: npt.NDArray[np.object_]  # of the best hit, None without any

    @property
    def strength(self) -> npt.NDArray[np.float64]:
        """A number that orders hits: bytes, pixels, similarity, then distance alone."""
        known = np.isfinite(self.similarity)
        rest = np.where(known, self.similarity, -2 - self.distance / NO_HASH)
        return np.select([self.exact, self.pixels], [3.0, 2.0], rest)


def contamination_draft(
    dataset_url: str,
    dataset_digest: str,
    score_folders: Mapping[str, str],
    sets: Sequence[EvaluationSet],
    settings: ContaminationSettings,
) -> Draft:
    """The score folder of a dataset against evaluation sets."""
    parents = [dataset_digest, *map(folder_digest, _folders(score_folders, settings))]
    for each in sets:
        parents += [each.digest, *map(folder_digest, _folders(each.folders, settings))]
    named = settings.model_dump() | {"sets": [each.name for each in sets]}
    spec = Spec("scores", "curation.contamination", named, tuple(parents), CODE)
    return Draft(join(dataset_url, "scores", f"{NAME}-{spec.digest}"), spec)


def _folders(folders: Mapping[str, str], settings: ContaminationSettings) -> tuple[str, str]:
    """The score folders of the hashes and of the vectors."""
    scorer = settings.descriptor.partition("/")[0]
    return (
        score_folder(folders, HASH_SCORER, "curate.contamination"),
        score_folder(folders, scorer, "curate.contamination.descriptor"),
    )


def shard_items(shards: Sequence[int]) -> list[Item]:
    """One unit of work per shard; its value is the shard's number."""
    return [Item(part_name(shard), shard) for shard in shards]


@dataclass(frozen=True)
class ContaminationWork:
    """Compares one shard of a dataset with evaluation sets; its item is a shard number."""

    url: str
    dataset_url: str
    score_folders: Mapping[str, str]
    sets: Sequence[EvaluationSet]
    settings: ContaminationSettings

    def __call__(self, value: int, todo: Sequence[str]) -> dict[str, Part]:
        own = _folders(self.score_folders, self.settings)
        vector = self.settings.descriptor.partition("/")[2]
        rows = read_columns(self.dataset_url, self.score_folders, value, IMAGE)
        vectors = read_vectors(self.dataset_url, own[1], vector, value)
        found: dict[str, Hits] = {}
        for each in self.sets:
            theirs = _folders(each.folders, self.settings)
            for ours, other in zip(own, theirs, strict=True):
                check_same_scorer(
                    join(self.dataset_url, "scores", ours), join(each.url, "scores", other)
                )
            found[each.name] = compare(rows, vectors, load_reference(each.url, *theirs, vector))
        table = closest_of(rows, found)
        file = write_table(self.url, f"columns/{part_name(value)}.parquet", table)
        figures = {"hits": {name: count(hits, self.settings) for name, hits in found.items()}}
        part = Part(part_name(value), (file,), table.num_rows, table.num_rows, extra=figures)
        return {"": part}


@functools.lru_cache(maxsize=8)
def check_same_scorer(ours: str, theirs: str) -> None:
    """Vectors of two scorers, or of two settings of one, cannot be compared."""
    left, right = artifact_at(ours), artifact_at(theirs)
    if (left.settings, left.manifest["spec"]["code"]) != (
        right.settings,
        right.manifest["spec"]["code"],
    ):
        raise SluiceError(
            f"{ours} and {theirs} were scored with different settings",
            "score both datasets with one recipe",
        )


@functools.lru_cache(maxsize=32)
def load_reference(url: str, hash_folder: str, vector_folder: str, vector: str) -> Reference:
    """An evaluation set's hashes and vectors, loaded once per process."""
    dataset = dataset_at(url)
    sha256: dict[str, str] = {}
    pixels: dict[str, str] = {}
    uids: list[list[str]] = [[], []]
    vectors: list[npt.NDArray[np.float16]] = []
    hashes = [np.empty((0, 2), np.uint64)]
    for shard in sorted(dataset.shards):
        rows = read_columns(url, {HASH_SCORER: hash_folder}, shard, IMAGE)
        ok = pc.equal(rows["rows.status"], "ok").to_numpy()
        theirs = rows["rows.uid"].to_numpy()
        for found, name in ((sha256, IMAGE[2]), (pixels, IMAGE[3])):
            for uid, value in zip(theirs[ok], rows[name].to_numpy()[ok], strict=True):
                if value is not None:
                    found.setdefault(value, uid)
        shard_vectors = read_vectors(url, vector_folder, vector, shard)
        usable = ok & shard_vectors.any(axis=1)
        vectors.append(shard_vectors[usable])
        uids[0] += theirs[usable].tolist()
        words, told = _hashes(rows)
        hashes.append(words[ok & told])
        uids[1] += theirs[ok & told].tolist()
    stacked = np.concatenate(vectors) if vectors else np.empty((0, 0), np.float16)
    return Reference(sha256, pixels, stacked, uids[0], np.concatenate(hashes), uids[1])


def _hashes(rows: pa.Table) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """The perceptual hashes of rows, [n, 2], and which of them tell pictures apart."""
    words = hash_words(rows[IMAGE[4]], rows[IMAGE[5]])
    return words, telling(words)


def compare(rows: pa.Table, vectors: npt.NDArray[np.float16], reference: Reference) -> Hits:
    """Compare rows (columns IMAGE) and their vectors [rows, dim] with an evaluation set."""
    ok = pc.equal(rows["rows.status"], "ok").to_numpy()
    uids = np.full(rows.num_rows, None, object)
    words, told = _hashes(rows)
    distance = np.full(rows.num_rows, NO_HASH)
    usable = ok & told & bool(len(reference.hashes))
    if usable.any():
        index, distance[usable] = closest(words[usable], reference.hashes)
        uids[usable] = np.array(reference.hash_uids, object)[index]
    similarity = np.full(rows.num_rows, np.nan, np.float32)
    usable = ok & vectors.any(axis=1) & bool(len(reference.vectors))
    if usable.any():
        best, index = nearest(vectors[usable], reference.vectors, 1)
        similarity[usable] = np.minimum(best[:, 0], 1)
        uids[usable] = np.array(reference.vector_uids, object)[index[:, 0]]
    equal: list[npt.NDArray[np.bool_]] = []
    for known, name in ((reference.pixels, IMAGE[3]), (reference.sha256, IMAGE[2])):
        same = np.array([known.get(value) for value in rows[name].to_pylist()], object)
        hit = ok & np.array([uid is not None for uid in same], bool)
        uids[hit] = same[hit]
        equal.append(hit)
    return Hits(equal[1], equal[0], distance, similarity, uids)


def closest_of(rows: pa.Table, found: Mapping[str, Hits]) -> pa.Table:
    """The best hit of each row over all sets: COLUMNS. Of equal ones the first set's."""
    ok = pc.equal(rows["rows.status"], "ok").to_numpy()
    sets = list(found.values())
    best = np.stack([hits.strength for hits in sets]).argmax(axis=0)
    uids = np.stack([hits.uids for hits in sets])[best, np.arange(rows.num_rows)]
    hit = ok & np.array([uid is not None for uid in uids], bool)
    similarity = np.stack([hits.similarity for hits in sets])
    known = np.isfinite(similarity)
    similarity = np.where(known, similarity, -np.inf).max(axis=0)
    distance = np.stack([hits.distance for hits in sets]).min(axis=0)
    exact, pixels = (
        np.any([getattr(hits, name) for hits in sets], axis=0) for name in ("exact", "pixels")
    )
    names = np.array(list(found), object)[best]
    unseen = rows[IMAGE[3]].is_null().to_numpy()
    return pa.table(
        [
            pa.array(similarity, mask=~known.any(axis=0)),
            pa.array(uids, pa.string(), mask=~hit),
            pa.array(names, pa.string(), mask=~hit),
            pa.array(exact, mask=~ok),
            pa.array(pixels, mask=~ok | unseen),
            pa.array(distance.astype(np.uint8), mask=distance >= NO_HASH),
        ],
        schema=COLUMNS,
    )


def count(hits: Hits, settings: ContaminationSettings) -> dict[str, int]:
    """How many rows each way of looking finds in one set."""
    with np.errstate(invalid="ignore"):
        near = hits.similarity >= np.float32(settings.threshold)
    every = (hits.exact, hits.pixels, hits.distance <= settings.radius, near)
    counts = (*every, np.any(every, axis=0))
    return dict(zip(FOUND_BY, (int(hit.sum()) for hit in counts), strict=True))
