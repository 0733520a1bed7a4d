from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curation import columns
from curation.dedup import ALL, EdgesWork, edges_draft
from curation.rules_settings import EXACT, NEAR, DedupSettings, NearSettings, RuleSettings
from curation.verdicts import VERDICTS, VerdictsWork, keep_rejected, verdicts_draft
from infra import artifacts
from infra.dataset import part_name, read_table
from infra.errors import SluiceError

NEAR_SEARCH = NearSettings(threshold=0.95, floor=0.9)
DEDUP = DedupSettings(
    pixels=False, perceptual=False, near=(NEAR_SEARCH,), priority=("clip.similarity",)
)
RULES = (
    RuleSettings(reason="small", score="image.width", min=32),
    RuleSettings(reason="mismatched", score="similarity", min=0.5),
)
SAMPLES = [
    {"image": b"same"},  # 0: the lowest id, but not the preferred one
    {},  # 1: near 4
    {"rejected": "not_an_image"},  # 2
    {},  # 3: too small, and mismatched
    {"caption": "preferred"},  # 4: near 1, of higher priority
    {"image": b"same"},  # 5: kept for its similarity
    {"image": b"same"},  # 6: fails a rule and is a copy
    {},  # 7: alone
]
WIDTH = [64, 64, None, 8, 64, 64, 64, 64]
SIMILARITY = [0.6, 0.7, None, 0.1, 0.8, 0.9, 0.2, 0.6]
VECTORS = np.eye(8)
VECTORS[1], VECTORS[2] = VECTORS[4] * 0.98 + VECTORS[1] * 0.199, 0


@pytest.fixture
def made(maker):
    made = maker.dataset("pool", SAMPLES)
    maker.score(made, "image", {"width": pa.array(WIDTH, pa.int32())})
    maker.score(made, "clip", {"similarity": pa.array(SIMILARITY, pa.float32())})
    maker.score(made, "descriptor", {"fine": [True] * 8}, {"pixels": VECTORS})
    return made


def judge(maker, made, rules=RULES, dedup: DedupSettings | None = DEDUP):
    edges_url = edges_digest = None
    if dedup is not None:
        edges = edges_draft(made.url, made.digest, made.folders, dedup)
        work = EdgesWork(edges.url, made.url, made.folders, dedup)
        maker.run(edges, [ALL], work)
        edges_url, edges_digest = edges.url, edges.spec.digest
    draft = verdicts_draft(made.url, made.digest, made.folders, edges_digest, rules, dedup)
    work = VerdictsWork(draft.url, made.url, made.folders, edges_url, rules, dedup)
    return maker.run(draft, [ALL], work)


def table_of(artifact) -> pa.Table:
    return pa.concat_tables(
        read_table(artifact.path(f"{part_name(shard)}.parquet")) for shard in (0, 1)
    )


def test_every_row_has_one_state_with_reason_score_and_twin(maker, made) -> None:
    table = table_of(judge(maker, made))
    assert table.schema.equals(VERDICTS)
    rows = table.to_pylist()
    assert [row["kept"] for row in rows] == [False, False, False, False, True, True, False, True]
    assert [row["reason"] for row in rows] == [
        EXACT, NEAR, "not_an_image", "small", None, None, "mismatched", None,
    ]  # fmt: skip
    assert rows[3]["reasons"] == ["small", "mismatched"]
    assert (rows[3]["score"], rows[3]["threshold"]) == (8, 32)
    assert rows[2]["reasons"] == ["not_an_image"]
    assert rows[6]["reasons"] == ["mismatched", EXACT]
    assert (rows[0]["twin_uid"], rows[0]["twin_similarity"]) == (rows[5]["uid"], 1)
    assert rows[1]["twin_uid"] == rows[4]["uid"]
    assert rows[1]["score"] == pytest.approx(rows[1]["twin_similarity"])
    assert rows[1]["score"] >= rows[1]["threshold"] == 0.95
    assert [rows[7][name] for name in ("score", "threshold", "twin_uid")] == [None] * 3
    assert [(row["shard"], row["row"]) for row in rows] == [divmod(i, 4) for i in range(8)]


def test_counts_balance_and_name_the_first_reason(maker, made) -> None:
    artifact = judge(maker, made)
    table = table_of(artifact)
    (part,) = artifact.parts
    assert (part.rows, part.kept) == (8, 3)
    first = Counter(reason for reason in table["reason"].to_pylist() if reason)
    assert part.dropped == dict(first)
    every = Counter(reason for reasons in table["reasons"].to_pylist() for reason in reasons)
    assert part.extra["flagged"] == dict(every)


def test_without_rules_or_dedup_all_that_was_read_is_kept(maker, made) -> None:
    table = table_of(judge(maker, made, rules=(), dedup=None))
    assert table["reason"].to_pylist() == [None, None, "not_an_image", *[None] * 5]


def test_a_moved_threshold_reads_no_pixels_and_keeps_the_pairs(maker, made) -> None:
    judge(maker, made)
    for tar in Path(made.url).glob("shards/*.tar"):
        tar.unlink()
    search = NEAR_SEARCH.model_copy(update={"threshold": 0.999})
    moved = DEDUP.model_copy(update={"near": (search,)})
    stricter = RULES[1].model_copy(update={"min": 0.65})
    again = judge(maker, made, (RULES[0], stricter), moved)
    assert table_of(again)["reason"].to_pylist() == [
        "mismatched", None, "not_an_image", "small", None, None, "mismatched", "mismatched",
    ]  # fmt: skip
    assert len(list(Path(made.url).glob("edges/*"))) == 1
    assert len(list(Path(made.url).glob("verdicts/*"))) == 2


def test_the_same_inputs_give_the_same_bytes(maker, made) -> None:
    first = judge(maker, made)
    manifest = Path(first.url) / artifacts.MANIFEST
    manifest.unlink()
    assert judge(maker, made).content == first.content


def test_shards_judged_together_give_the_bytes_of_each_alone(maker, made, monkeypatch) -> None:
    together = judge(maker, made)
    (Path(together.url) / artifacts.MANIFEST).unlink()
    monkeypatch.setattr(columns, "BATCH", 1)
    assert judge(maker, made).content == together.content


def test_a_wrong_rule_leaves_nothing_behind(maker, made) -> None:
    wrong = (RuleSettings(reason="wrong", score="clip.similarty", min=0),)
    with pytest.raises(SluiceError, match=r"rule wrong.*clip\.similarty"):
        judge(maker, made, wrong)
    assert not list(Path(made.url).glob("verdicts/*/*"))


def test_scores_that_do_not_fit_their_rows_are_refused(maker, made) -> None:
    short = maker.dataset("short", SAMPLES[:4])
    url = Path(made.url) / "scores" / made.folders["clip"] / "columns" / "00001.parquet"
    maker.score(short, "clip", {"similarity": pa.array(SIMILARITY[:3], pa.float32())})
    other = Path(short.url) / "scores" / short.folders["clip"] / "columns" / "00000.parquet"
    url.write_bytes(other.read_bytes())
    with pytest.raises(SluiceError, match=r"00001\.parquet holds 3 rows.* 4"):
        judge(maker, made)


def test_the_name_depends_on_what_is_decided_and_on_what() -> None:
    folders = {"clip": "clip-01"}
    base = verdicts_draft("s/pool/1", "1", folders, "2", RULES, DEDUP)
    assert base.url == f"s/pool/1/verdicts/{base.spec.digest}"
    others = [
        verdicts_draft("s/pool/1", "1", folders, "2", RULES[:1], DEDUP),
        verdicts_draft("s/pool/1", "1", folders, "2", RULES[::-1], DEDUP),
        verdicts_draft("s/pool/1", "1", {"clip": "clip-02"}, "2", RULES, DEDUP),
        verdicts_draft("s/pool/1", "1", folders, "3", RULES, DEDUP),
        verdicts_draft("s/pool/1", "1", folders, None, RULES, None),
    ]
    assert len({draft.spec.digest for draft in [base, *others]}) == 6


def test_a_source_that_was_itself_curated_keeps_its_reasons() -> None:
    outcome = pa.table(
        {
            "reason": ["small", None],
            "reasons": [["small"], []],
            "score": [1.0, None],
            "threshold": [2.0, None],
        }
    )
    status = pa.table({"status": ["dropped", "ok"], "reason": ["near_duplicate", None]})
    found = keep_rejected(outcome, status).to_pydict()
    assert found["reasons"] == [["near_duplicate"], []]
    assert found["score"] == [None, None]
