from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from curation.columns import dataset_at
from curation.contamination import (
    COLUMNS,
    ContaminationWork,
    EvaluationSet,
    contamination_draft,
    shard_items,
)
from curation.rules_settings import ContaminationSettings
from infra.dataset import read_table
from infra.errors import SluiceError

SETTINGS = ContaminationSettings()
HASH = 0x0F0F0F0F0F0F0F0F
FLAT = 3


def split(maker, name, samples, vectors, pixels=None, phash=None):
    """A dataset with vectors and hashes; by default no pixels and no hashes are known."""
    made = maker.dataset(name, samples)
    maker.score(made, "descriptor", {"fine": [True] * len(samples)}, {"pixels": vectors})
    none = [None] * len(samples)
    columns = {
        "pixel_sha256": pa.array(pixels or none, pa.string()),
        "phash": pa.array(phash or none, pa.uint64()),
        "dhash": pa.array(phash or none, pa.uint64()),
    }
    maker.score(made, "hash", columns)
    return made


def as_set(made, name="evaluation"):
    return EvaluationSet(name, made.url, made.digest, made.folders)


def run(maker, pool, *sets):
    draft = contamination_draft(pool.url, pool.digest, pool.folders, sets, SETTINGS)
    work = ContaminationWork(draft.url, pool.url, pool.folders, sets, SETTINGS)
    artifact = maker.run(draft, shard_items(dataset_at(pool.url).shards), work)
    names = [part.name for part in artifact.parts]
    tables = [read_table(artifact.path("columns", f"{name}.parquet")) for name in names]
    assert all(table.schema.equals(COLUMNS) for table in tables)
    return artifact, pa.concat_tables(tables).to_pylist()


def test_finds_leaks_by_bytes_and_by_likeness(maker) -> None:
    close = np.array([0.6, 0.8, 0, 0, 0])
    evaluation = split(
        maker,
        "evaluation",
        [{"image": b"leak", "uid": "e0"}, {"uid": "e1"}, {"rejected": "x", "uid": "e2"}],
        np.stack([np.eye(5)[0], close, np.zeros(5)]),
    )
    samples = [{"image": b"leak"}, {"image": b"new"}, {"rejected": "x"}, {}, {"image": b"dark"}]
    vectors = np.stack([np.eye(5)[0], close, np.zeros(5), np.eye(5)[3], np.zeros(5)])
    pool = split(maker, "pool", samples, vectors)
    artifact, found = run(maker, pool, as_set(evaluation))
    assert artifact.url.startswith(f"{pool.url}/scores/contamination-")
    assert [row["eval_exact"] for row in found] == [True, False, None, False, False]
    assert [row["eval_uid"] for row in found][:3] == ["e0", "e1", None]
    similarity = [row["eval_similarity"] for row in found]
    assert similarity[:2] == pytest.approx([1, 1], abs=1e-3)
    assert similarity[2] is None
    assert similarity[3] == pytest.approx(0, abs=1e-3)
    assert similarity[4] is None  # it has no descriptor: only its hashes can be compared
    assert found[4]["eval_set"] is None
    hits = [part.extra["hits"]["evaluation"] for part in artifact.parts]
    assert [hit["exact"] for hit in hits] == [1, 0]
    assert [hit["any"] for hit in hits] == [2, 0]


def test_the_best_hit_over_all_sets_and_where_it_is(maker) -> None:
    one = split(
        maker,
        "one",
        [{"uid": "a", "image": b"one"}, {"uid": "b", "image": b"two"}],
        np.eye(4)[:2],
        ["aa" * 32, "bb" * 32],
        [HASH, HASH ^ 0xFF],
    )
    two = split(
        maker,
        "two",
        [{"uid": "c", "image": b"six"}, {"uid": "d", "image": b"ten"}],
        np.eye(4)[2:],
        ["cc" * 32, None],
        [FLAT, None],
    )
    samples = [{"image": b"ten"}, {}, {}, {"rejected": "x"}]
    vectors = np.stack([np.eye(4)[0], [0, 0.6, 0.8, 0], np.zeros(4), np.zeros(4)])
    pool = split(
        maker,
        "pool",
        samples,
        vectors,
        ["dd" * 32, "bb" * 32, None, None],
        [FLAT, HASH ^ 7, HASH ^ 0xF1, None],
    )
    artifact, found = run(maker, pool, as_set(one, "one"), as_set(two, "two"))
    assert [(row["eval_set"], row["eval_uid"]) for row in found] == [
        ("two", "d"),  # bytes before a similarity of 1 in the other set
        ("one", "b"),  # pixels before a higher similarity
        ("one", "b"),  # all there is are hashes
        (None, None),
    ]
    assert [row["eval_exact"] for row in found] == [True, False, False, None]
    assert [row["eval_pixels"] for row in found] == [False, True, None, None]
    assert [row["eval_distance"] for row in found] == [None, 3, 3, None]
    assert found[0]["eval_similarity"] == 1
    assert found[1]["eval_similarity"] == pytest.approx(0.8, abs=1e-3)
    assert artifact.parts[0].extra["hits"] == {
        "one": {"exact": 0, "pixels": 1, "perceptual": 2, "near": 1, "any": 3},
        "two": {"exact": 1, "pixels": 0, "perceptual": 0, "near": 0, "any": 1},
    }


def test_an_evaluation_split_without_images_contaminates_nothing(maker) -> None:
    evaluation = split(maker, "evaluation", [{"rejected": "x"}], np.zeros((1, 2)))
    pool = split(maker, "pool", [{}], np.eye(2)[:1])
    _, (found,) = run(maker, pool, as_set(evaluation))
    assert found.pop("eval_exact") is False
    assert set(found.values()) == {None}


def test_descriptors_of_two_settings_are_not_compared(maker) -> None:
    pool = split(maker, "pool", [{}], np.eye(2)[:1])
    evaluation = split(maker, "evaluation", [{}], np.eye(2)[:1])
    maker.score(evaluation, "other", {"fine": [True]}, {"pixels": np.eye(2)[:1]}, {"size": 9})
    evaluation.folders["descriptor"] = evaluation.folders.pop("other")
    with pytest.raises(SluiceError, match="scored with different settings"):
        run(maker, pool, as_set(evaluation))


def test_the_name_depends_on_both_splits_and_their_scores() -> None:
    folders = {"descriptor": "descriptor-1", "hash": "hash-1"}
    moved, hashed = folders | {"descriptor": "descriptor-2"}, folders | {"hash": "hash-2"}
    other = EvaluationSet("evaluation", "evaluation", "9", folders)
    drafts = [
        contamination_draft("pool", *parts, SETTINGS)
        for parts in (
            ("1", folders, [other]),
            ("2", folders, [other]),
            ("1", moved, [other]),
            ("1", hashed, [other]),
            ("1", folders, [replace(other, digest="8")]),
            ("1", folders, [replace(other, folders=moved)]),
            ("1", folders, [replace(other, folders=hashed)]),
            ("1", folders, [replace(other, name="imagenet")]),
            ("1", folders, [other, replace(other, name="imagenet")]),
        )
    ]
    assert len({draft.spec.digest for draft in drafts}) == len(drafts)
