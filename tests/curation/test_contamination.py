import numpy as np
import pyarrow as pa
import pytest

from curation.contamination import (
    COLUMNS,
    ContaminationWork,
    Reference,
    compare,
    contamination_draft,
    shard_items,
)
from curation.rules_settings import ContaminationSettings
from infra.dataset import read_table
from infra.errors import SluiceError

SETTINGS = ContaminationSettings()


def split(maker, name, samples, vectors):
    made = maker.dataset(name, samples)
    maker.score(made, "descriptor", {"fine": [True] * len(samples)}, {"pixels": vectors})
    return made


def draft_and_work(pool, evaluation):
    draft = contamination_draft(
        pool.url, pool.digest, pool.folders, evaluation.digest, evaluation.folders, SETTINGS
    )
    work = ContaminationWork(
        draft.url, pool.url, pool.folders, evaluation.url, evaluation.folders, SETTINGS
    )
    return draft, work


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
    draft, work = draft_and_work(pool, evaluation)
    artifact = maker.run(draft, shard_items([0, 1]), work)
    assert draft.url.startswith(f"{pool.url}/scores/contamination-")
    found = pa.concat_tables(
        read_table(artifact.path("columns", f"{name}.parquet")) for name in ("00000", "00001")
    )
    assert found.schema.equals(COLUMNS)
    assert found["eval_exact"].to_pylist() == [True, False, None, False, False]
    assert found["eval_uid"].to_pylist()[:3] == ["e0", "e1", None]
    similarity = found["eval_similarity"].to_pylist()
    assert similarity[:2] == pytest.approx([1, 1], abs=1e-3)
    assert similarity[2] is None
    assert similarity[3] == pytest.approx(0, abs=1e-3)
    assert similarity[4] is None  # it has no descriptor: only its bytes can be compared
    assert [part.extra["exact"] for part in artifact.parts] == [1, 0]


def test_a_hash_counts_where_there_is_no_vector() -> None:
    rows = pa.table({"status": ["ok"], "sha256": ["aa"]})
    found = compare(rows, np.zeros((1, 4), np.float16), Reference({"aa": "e"}, np.eye(4), ["e"]))
    assert found.to_pylist() == [{"eval_similarity": None, "eval_uid": "e", "eval_exact": True}]


def test_an_evaluation_split_without_images_contaminates_nothing(maker) -> None:
    evaluation = split(maker, "evaluation", [{"rejected": "x"}], np.zeros((1, 2)))
    pool = split(maker, "pool", [{}], np.eye(2)[:1])
    draft, work = draft_and_work(pool, evaluation)
    work(0, [""])
    found = read_table(f"{draft.url}/columns/00000.parquet").to_pylist()
    assert found == [{"eval_similarity": None, "eval_uid": None, "eval_exact": False}]


def test_descriptors_of_two_settings_are_not_compared(maker) -> None:
    pool = split(maker, "pool", [{}], np.eye(2)[:1])
    evaluation = maker.dataset("evaluation", [{}])
    maker.score(evaluation, "other", {"fine": [True]}, {"pixels": np.eye(2)[:1]}, {"size": 9})
    evaluation.folders["descriptor"] = evaluation.folders.pop("other")
    _, work = draft_and_work(pool, evaluation)
    with pytest.raises(SluiceError, match="scored with different settings"):
        work(0, [""])


def test_the_name_depends_on_both_splits_and_their_scores() -> None:
    folders = {"descriptor": "descriptor-1"}
    moved = {"descriptor": "descriptor-2"}
    drafts = [
        contamination_draft("pool", *parts, SETTINGS)
        for parts in (
            ("1", folders, "9", folders),
            ("2", folders, "9", folders),
            ("1", moved, "9", folders),
            ("1", folders, "8", folders),
            ("1", folders, "9", moved),
        )
    ]
    assert len({draft.spec.digest for draft in drafts}) == len(drafts)
