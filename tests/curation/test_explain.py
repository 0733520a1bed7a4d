import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from curation.contamination import shard_items
from curation.curate import CurateWork, curate_draft
from curation.dedup import ALL, EdgesWork, edges_draft
from curation.explain import explain, format_explanation
from curation.rules_settings import DedupSettings, NearSettings, RuleSettings
from curation.verdicts import VerdictsWork, verdicts_draft
from indexes.subset import make_subset
from infra.dataset import index_id, open_dataset, publish
from infra.errors import SluiceError

RULES = (
    RuleSettings(reason="corrupt", drop="error IS NOT NULL"),
    RuleSettings(reason="mismatched", score="similarity", min=0.5),
)
NEAR = (NearSettings(floor=0.9), NearSettings(vectors="clip/image", threshold=0.99, floor=0.9))
DEDUP = DedupSettings(pixels=False, perceptual=False, near=NEAR)
SAMPLES = [
    {"caption": "kept \x1b[31mone"},
    {"caption": "like the first"},
    {"rejected": "not_an_image"},
    {"image": b"same"},
    {"image": b"same"},
    {"image": b"same", "caption": "of something else"},
]
SIMILARITY = [0.9, 0.8, None, 0.7, 0.7, 0.1]
VECTORS = np.eye(6)
VECTORS[1] = VECTORS[0] * 0.98 + VECTORS[1] * 0.199
SEEN = np.eye(6)
SEEN[1] = SEEN[0] * 0.92 + SEEN[1] * 0.3919


@pytest.fixture
def made(maker):
    made = maker.dataset("pool", SAMPLES)
    columns = {"similarity": pa.array(SIMILARITY), "error": pa.nulls(6, pa.string())}
    maker.score(made, "clip", columns, {"image": SEEN})
    maker.score(made, "descriptor", {"fine": [True] * 6}, {"pixels": VECTORS})
    edges = edges_draft(made.url, made.digest, made.folders, DEDUP)
    maker.run(edges, [ALL], EdgesWork(edges.url, made.url, made.folders, DEDUP))
    digest = edges.spec.digest
    verdicts = verdicts_draft(made.url, made.digest, made.folders, digest, RULES, DEDUP)
    judge = VerdictsWork(verdicts.url, made.url, made.folders, edges.url, RULES, DEDUP)
    maker.run(verdicts, [ALL], judge)
    draft = curate_draft(
        made.store, "curated", made.url, made.digest, verdicts.spec.digest, made.folders, digest
    )
    work = CurateWork(draft.url, made.url, verdicts.url)
    publish(made.store, "curated", maker.run(draft, shard_items([0, 1]), work))
    return made


def uid_of(number: int) -> str:
    return f"{number:032x}"


def test_a_dropped_duplicate_is_explained_by_its_twin(made) -> None:
    (found,) = explain(made.store, uid_of(1))
    assert (found.state, found.reasons) == ("dropped", ("near_duplicate",))
    assert (found.shard, found.position) == (0, 1)
    assert [name.partition("@")[0] for name in found.lineage] == ["curated", "pool"]
    assert found.twin_uid == uid_of(0)
    assert found.twin_similarity is not None and found.twin_similarity >= 0.95
    assert [(rule.reason, rule.passed) for rule in found.rules] == [
        ("corrupt", True), ("mismatched", True),
    ]  # fmt: skip
    assert found.rules[1].value == pytest.approx(0.8)
    assert found.scores["clip"]["similarity"] == pytest.approx(0.8)
    text = format_explanation([found])
    for words in (
        "dropped: near_duplicate",
        f"kept twin {uid_of(0)}, similarity 0.98",
        "clip.similarity is 0.8, wanted at least 0.5",
        "source        pool/0.tar: 1.jpg",
        "https://example.org/1.jpg",
    ):
        assert words in text


def test_all_pairs_of_two_rows_are_shown(made) -> None:
    """The pair that decided must be among them, not only the last one looked at."""
    (found,) = explain(made.store, uid_of(1))
    pairs = [(other.uid, other.kind, round(other.similarity, 2)) for other in found.neighbours]
    assert pairs == [(uid_of(0), "descriptor/pixels", 0.98), (uid_of(0), "clip/image", 0.92)]


def test_all_of_a_star_are_neighbours(made) -> None:
    for number in (3, 4, 5):
        (found,) = explain(made.store, uid_of(number))
        others = {uid_of(other) for other in (3, 4, 5)} - {found.uid}
        assert {other.uid for other in found.neighbours} == others
        assert {other.kind for other in found.neighbours} == {"exact"}
    assert found.reasons == ("mismatched", "exact_duplicate")
    assert [other.kept for other in found.neighbours] == [True, False]
    text = format_explanation([found])
    assert "FAILED" in text
    assert "also          exact_duplicate" in text
    assert "like 0" in text


def test_kept_and_rejected_samples(made) -> None:
    (kept,) = explain(made.store, uid_of(0))
    assert (kept.state, kept.reasons) == ("kept", ())
    (rejected,) = explain(made.store, uid_of(2))
    assert (rejected.state, rejected.reasons) == ("rejected", ("not_an_image",))
    assert rejected.rules == ()
    assert "rejected: not_an_image" in format_explanation([rejected])


def test_a_caption_cannot_steer_the_terminal(made) -> None:
    text = format_explanation(explain(made.store, uid_of(0)))
    assert "\x1b" not in text
    assert "kept  [31mone" in text


def test_another_dataset_tells_what_it_knows(made) -> None:
    (found,) = explain(made.store, uid_of(1), "pool")
    assert (found.state, found.reasons, found.rules) == ("not judged", (), ())
    assert {name.partition("-")[0] for name in found.scores} == {"clip", "descriptor"}
    (same,) = explain(made.store, uid_of(1), f"pool@{made.digest}")
    assert same == found


def test_every_row_of_a_uid_is_explained(maker) -> None:
    made = maker.dataset("pool", [{"uid": "a"}, {"uid": "b"}, *[{"uid": "a"}] * 3])
    found = explain(made.store, "a", "pool")
    assert [(one.shard, one.position) for one in found] == [(0, 0), (0, 2), (0, 3), (1, 0)]


def test_an_unknown_uid_or_dataset_is_an_error(made) -> None:
    with pytest.raises(SluiceError, match="no sample 'nobody' in curated"):
        explain(made.store, "nobody")
    with pytest.raises(SluiceError, match="no dataset 'other'"):
        explain(made.store, uid_of(0), "other")


def test_loads_no_engine_it_does_not_need() -> None:
    heavy = (
        "{'torch', 'faiss', 'open_clip', 'timm', 'ray', 'prefect', 'sklearn', 'numba', 'pandas'}"
    )
    code = f"import sys, curation.explain; assert not {heavy} & set(sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_subset_tells_what_its_source_decided(made) -> None:
    curated = open_dataset(made.store, "curated")
    (first,) = explain(made.store, uid_of(0))
    make_subset(curated, np.array([index_id(first.shard, first.position)]), "few", "by hand")
    (inside,) = explain(made.store, uid_of(0), "few")
    assert (inside.state, inside.reasons) == ("kept", ())
    assert [name.partition("@")[0] for name in inside.lineage] == ["few", "curated", "pool"]
    (dropped,) = explain(made.store, uid_of(1), "few")
    assert (dropped.state, dropped.reasons) == ("dropped", ("near_duplicate",))


def test_a_row_that_a_subset_left_out_says_so(made) -> None:
    curated = open_dataset(made.store, "curated")
    kept = [explain(made.store, uid_of(number))[0] for number in range(6)]
    kept = [one for one in kept if one.state == "kept"]
    pairs = [(a, b) for a in kept for b in kept if a.shard == b.shard and a.uid < b.uid]
    assert pairs
    chosen, other = pairs[0]
    make_subset(curated, np.array([index_id(chosen.shard, chosen.position)]), "few", "by hand")
    (left,) = explain(made.store, other.uid, "few")
    assert (left.state, left.reasons) == ("dropped", ("not_in_subset",))
