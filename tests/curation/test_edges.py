from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.dedup import (
    ALL,
    EDGES_FILE,
    EdgesWork,
    edges_draft,
)
from curation.dedup.equal import copies
from curation.dedup.stars import equal_rows
from curation.rules_settings import DedupSettings, NearSettings
from infra.dataset import index_id, read_table
from infra.errors import SluiceError

KIND = "descriptor/pixels"
ONLY_BYTES = DedupSettings(pixels=False, perceptual=False, near=())
NEAR = DedupSettings(
    pixels=False,
    perceptual=False,
    near=(NearSettings(vectors=KIND, threshold=0.9, floor=0.5),),
)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=12))
def test_copies_point_to_the_first_of_equal_words(values: list[tuple[int, int]]) -> None:
    words = np.array(values, np.uint64).reshape(-1, 2)
    first, copy = equal_rows(words)
    expected = [
        (values.index(value), row)
        for row, value in enumerate(values)
        if any(value) and values.index(value) != row
    ]
    assert sorted(zip(first.tolist(), copy.tolist(), strict=True)) == sorted(expected)


def test_words_of_one_hash_are_told_apart() -> None:
    """Whatever the hash: all rows in one run, in which three words come and go."""
    words = np.array([[1, 2], [3, 4], [1, 2], [0, 0], [5, 6], [3, 4], [0, 0], [1, 2]], np.uint64)
    keys = np.arange(8, dtype=np.uint64)
    first, copy = np.empty((2, 7), np.int64)
    count = copies(keys, np.uint64(4), words, first, copy)
    assert first[:count].tolist() == [0, 1, 0]
    assert copy[:count].tolist() == [2, 5, 7]


def unit(*rows: list[float]) -> np.ndarray:
    array = np.array(rows, float)
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    return array / np.where(norms > 0, norms, 1)


def search(maker, made, dedup: DedupSettings):
    draft = edges_draft(made.url, made.digest, made.folders, dedup)
    return maker.run(draft, [ALL], EdgesWork(draft.url, made.url, made.folders, dedup))


def stored(artifact) -> list[tuple[int, int, str]]:
    edges = read_table(artifact.path(EDGES_FILE))
    return [(edge["a"], edge["b"], edge["kind"]) for edge in edges.to_pylist()]


def test_finds_pairs_across_shards_and_leaves_gaps_alone(maker) -> None:
    samples = [{"image": b"same"}, {}, {"rejected": "not_an_image"}, {}, {"image": b"same"}, {}]
    made = maker.dataset("pool", samples)  # four rows to a shard
    vectors = unit([1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0.99, 0.1], [1, 0, 0], [0, 0, 0])
    maker.score(made, "descriptor", {"x": [0] * 6}, {"pixels": vectors})
    artifact = search(maker, made, NEAR)
    assert stored(artifact) == [(0, index_id(1, 0), "exact"), (1, 3, KIND)]
    edges = read_table(artifact.path(EDGES_FILE))
    assert edges["similarity"][1].as_py() == pytest.approx(0.995, abs=1e-3)
    figures = artifact.parts[0].extra
    assert figures == {"images": 5, "exact": 1, KIND: 1, "recall": {KIND: 1.0}}


PHASH = int.from_bytes(b"\x0f" * 8)
FLAT = 3  # too few bits to tell pictures apart


def test_climbs_from_bytes_to_pixels_to_hashes(maker) -> None:
    samples = [{"image": b"a"}, {"image": b"a"}, {"image": b"b"}, *[{}] * 6, {"rejected": "x"}]
    made = maker.dataset("pool", samples)
    pixels = ["aa", "aa", "aa", "bb", "cc", None, None, "dd", "ee", None]
    phash = [PHASH, PHASH, PHASH, PHASH, PHASH ^ 7, PHASH ^ 7, None, FLAT, FLAT, None]
    dhash = [1, 1, 1, 1, 1, 1, None, 1, 1, None]
    columns = {
        "pixel_sha256": pa.array([value and value * 32 for value in pixels], pa.string()),
        "phash": pa.array(phash, pa.uint64()),
        "dhash": pa.array(dhash, pa.uint64()),
    }
    maker.score(made, "hash", columns)
    artifact = search(maker, made, DedupSettings(near=()))
    first, far = index_id(0, 0), index_id(1, 0)
    assert stored(artifact) == [
        (first, 1, "exact"),
        (first, 2, "pixels"),
        (first, 3, "perceptual"),  # equal hashes: a star
        (first, far, "perceptual"),  # three bits, between the first of each
        (far, index_id(1, 1), "perceptual"),
    ]
    assert artifact.parts[0].extra == {
        "images": 9, "exact": 1, "pixels": 1, "perceptual": 3, "without_perceptual_hash": 3,
    }  # fmt: skip
    near = search(maker, made, DedupSettings(radius=2, radius_floor=2, near=()))
    assert (first, far, "perceptual") not in stored(near)


def test_both_hashes_must_be_close(maker) -> None:
    made = maker.dataset("pool", [{}, {}])
    columns = {
        "pixel_sha256": ["aa" * 32, "bb" * 32],
        "phash": pa.array([PHASH] * 2, pa.uint64()),
        "dhash": pa.array([0, 2**20 - 1], pa.uint64()),
    }
    maker.score(made, "hash", columns)
    assert stored(search(maker, made, DedupSettings(near=()))) == []


def test_a_placeholder_found_often_costs_as_many_pairs(maker) -> None:
    count = 400
    made = replace(maker, size=count).dataset("pool", [{}] * count)
    columns = {
        "pixel_sha256": [f"{number:064x}" for number in range(1, count + 1)],
        "phash": pa.array([PHASH] * count, pa.uint64()),
        "dhash": pa.array([7] * count, pa.uint64()),
    }
    replace(maker, size=count).score(made, "hash", columns)
    artifact = search(maker, made, DedupSettings(near=()))
    assert stored(artifact) == [(0, row, "perceptual") for row in range(1, count)]


def test_a_moved_threshold_needs_no_new_search() -> None:
    folders = {"descriptor": "descriptor-0123", "hash": "hash-0123"}

    def digest(
        folders: dict[str, str] = folders,
        threshold: float = 0.95,
        floor: float = 0.85,
        **changes: Any,
    ) -> str:
        near = (NearSettings(threshold=threshold, floor=floor),)
        return edges_draft("pool", "0", folders, DedupSettings(near=near, **changes)).spec.digest

    first = digest()
    assert first == digest(threshold=0.9, radius=3, priority="2", exact=False)
    assert first != digest(floor=0.7)
    assert first != digest(radius_floor=14)
    assert first != digest(after="pool@0/1") != digest(after="pool@0/2")
    assert first != digest(perceptual=False)
    assert first != digest(folders | {"descriptor": "descriptor-4567"})
    assert first != digest(folders | {"hash": "hash-4567"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"near": (NearSettings(vectors="pictures/x"),), "pixels": False, "perceptual": False},
            r"dedup\.near.*'pictures'",
        ),
        ({"near": ()}, r"dedup\.pixels.*'hash'"),
        ({"near": (), "pixels": False}, r"dedup\.perceptual.*'hash'"),
    ],
    ids=["vectors", "pixels", "perceptual"],
)
def test_an_unknown_scorer_is_refused_before_any_work(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SluiceError, match=words):
        edges_draft("pool", "0", {"clip": "clip-1"}, DedupSettings(**changes))


def test_hashes_are_those_of_the_original_bytes(maker) -> None:
    made = maker.dataset("pool", [{"image": b"a"}, {"image": b"b"}, {"image": b"a"}])
    assert stored(search(maker, made, ONLY_BYTES)) == [(0, 2, "exact")]


@pytest.mark.parametrize(
    "changes",
    [
        {"radius": 5, "radius_floor": 4},
        {"near": ({"threshold": 0.8, "floor": 0.9},)},
        {"near": ({}, {})},
    ],
    ids=["radius", "near", "twice"],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"floor|twice"):
        DedupSettings.model_validate(changes)
