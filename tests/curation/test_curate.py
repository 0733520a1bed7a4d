import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curation.contamination import shard_items
from curation.curate import CurateWork, curate_draft, decide
from curation.dedup import ALL, EdgesWork, edges_draft
from curation.rules_settings import DedupSettings, NearSettings, RuleSettings
from curation.verdicts import VerdictsWork, verdicts_draft
from infra.artifacts import load, verify
from infra.dataset import ROWS, open_dataset, publish, read_table, write_table
from infra.errors import SluiceError

RULES = (RuleSettings(reason="mismatched", score="clip.similarity", min=0.5),)
DEDUP = DedupSettings(pixels=False, perceptual=False, near=(NearSettings(floor=0.9),))


def curate(maker, made):
    """Edges, verdicts and the curated version of a dataset with clip and descriptor scores."""
    edges = edges_draft(made.url, made.digest, made.folders, DEDUP)
    maker.run(edges, [ALL], EdgesWork(edges.url, made.url, made.folders, DEDUP))
    digest = edges.spec.digest
    verdicts = verdicts_draft(made.url, made.digest, made.folders, digest, RULES, DEDUP)
    work = VerdictsWork(verdicts.url, made.url, made.folders, edges.url, RULES, DEDUP)
    maker.run(verdicts, [ALL], work)
    draft = curate_draft(
        made.store, "curated", made.url, made.digest, verdicts.spec.digest, made.folders, digest
    )
    items = shard_items(range(len(list(Path(made.url).glob("rows/*")))))
    artifact = maker.run(draft, items, CurateWork(draft.url, made.url, verdicts.url))
    publish(made.store, "curated", artifact)
    return artifact


def make_pool(maker, samples, similarity, vectors):
    made = maker.dataset("pool", samples)
    maker.score(made, "clip", {"similarity": pa.array(similarity, pa.float32())})
    maker.score(made, "descriptor", {"fine": [True] * len(samples)}, {"pixels": vectors})
    return made


@pytest.fixture
def made(maker):
    samples = [{"image": b"same"}, {}, {"rejected": "not_an_image"}, {"image": b"same"}, {}]
    return make_pool(maker, samples, [0.9, 0.1, None, 0.9, 0.9], np.eye(5))


def test_kept_samples_keep_their_bytes_and_places(maker, made) -> None:
    curate(maker, made)
    pool, curated = open_dataset(made.store, "pool"), open_dataset(made.store, "curated")
    assert [(s.row, s.image) for s in curated.samples(0)] == [(0, b"same")]
    assert [(s.row, s.image) for s in curated.samples(1)] == [(0, b"image 4")]
    before, after = pool.rows(0), curated.rows(0)
    assert after.schema.equals(ROWS)
    assert after["status"].to_pylist() == ["ok", "dropped", "rejected", "dropped"]
    assert after["reason"].to_pylist() == [None, "mismatched", "not_an_image", "exact_duplicate"]
    for name in set(ROWS.names) - {"status", "reason", "tar", "offset"}:
        assert after[name].equals(before[name])
    assert after["tar"].to_pylist() == [0, None, None, None]


def test_the_version_names_its_source_and_balances_in_every_shard(maker, made) -> None:
    artifact = curate(maker, made)
    settings = artifact.settings
    assert settings["source"] == {"dataset": "pool", "version": made.digest}
    assert settings["scores"] == made.folders
    for name, folder in (("verdicts", "verdicts"), ("edges", "edges")):
        assert load(f"{made.url}/{folder}/{settings[name]}") is not None
    assert [(part.rows, part.kept) for part in artifact.parts] == [(4, 1), (1, 1)]
    assert artifact.totals["dropped"] == {
        "mismatched": 1, "not_an_image": 1, "exact_duplicate": 1,
    }  # fmt: skip
    assert verify(artifact) == []


def test_tars_are_plain_webdataset(maker, made) -> None:
    artifact = curate(maker, made)
    with tarfile.open(fileobj=io.BytesIO(artifact.open("shards/00000.tar").read())) as tar:
        names = tar.getnames()
    assert [name.partition(".")[2] for name in names] == ["jpg", "txt", "json"]
    assert len({name.partition(".")[0] for name in names}) == 1


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.booleans()), min_size=1, max_size=9))
def test_conservation(maker, rows: list[tuple[int, bool, bool]]) -> None:
    """Rows in = kept + dropped, in every shard; each kept image once and only once."""
    samples = [
        {"image": bytes([value]), "rejected": "not_an_image" if rejected else None}
        for value, rejected, _ in rows
    ]
    similarity = [None if rejected else float(fine) for _, rejected, fine in rows]
    vectors = np.array([np.eye(5)[value] * (not rejected) for value, rejected, _ in rows])
    artifact = curate(maker, make_pool(maker, samples, similarity, vectors))
    curated = open_dataset(maker.store, f"curated@{artifact.digest}")
    kept = [s.image for part in artifact.parts for s in curated.samples(int(part.name))]
    fine = {bytes([value]) for value, rejected, passes in rows if passes and not rejected}
    assert sorted(kept) == sorted(fine)
    assert artifact.totals["rows"] == len(rows)
    for part in artifact.parts:
        states = curated.rows(int(part.name))["status"].to_pylist()
        assert states.count("ok") == part.kept == part.rows - sum(part.dropped.values())


def test_verdicts_about_other_rows_are_refused(maker, made) -> None:
    artifact = curate(maker, made)
    verdicts = f"{made.url}/verdicts/{artifact.settings['verdicts']}"
    table = read_table(f"{verdicts}/00001.parquet")
    wrong = table.set_column(0, "uid", pa.array(["0" * 32]))
    write_table(verdicts, "00001.parquet", wrong)
    with pytest.raises(SluiceError, match=r"00001\.parquet is not about the rows"):
        CurateWork(artifact.url, made.url, verdicts)(1, [""])


def test_a_kept_sample_without_its_image_is_refused(maker, made) -> None:
    artifact = curate(maker, made)
    work = CurateWork(
        artifact.url, made.url, f"{made.url}/verdicts/{artifact.settings['verdicts']}"
    )
    rows = read_table(f"{made.url}/rows/00001.parquet")
    state = pa.array(["rejected"], pa.string())
    write_table(made.url, "rows/00001.parquet", rows.set_column(3, "status", state))
    with pytest.raises(SluiceError, match="shard 00001: row 0 is to be kept and has no image"):
        work(1, [""])
    with tarfile.open(Path(made.url) / "shards" / "00000.tar", "w"):
        pass
    with pytest.raises(SluiceError, match=r"00000\.tar is damaged"):
        work(0, [""])


def test_rows_dropped_before_stay_so() -> None:
    nothing = {name: [None] * 2 for name in ROWS.names}
    rows = pa.table({**nothing, "status": ["dropped", "ok"]}, schema=ROWS)
    verdicts = pa.table({"kept": [False, False], "reason": ["early", "late"]})
    decided = decide(rows, verdicts)
    assert decided["status"].to_pylist() == ["dropped", "dropped"]
    assert decided["reason"].to_pylist() == ["early", "late"]
