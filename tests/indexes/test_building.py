import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

import indexes
from indexes.building import LATEST, IndexWork, figures_of, index_draft, stages
from indexes.files import IDS, read_faiss, write_index
from indexes.kinds import KINDS
from indexes.metadata import Metadata
from indexes.settings import IndexSettings
from infra import artifacts, dataset, filesystem
from infra.artifacts import Artifact
from infra.dataset import open_dataset, read_table, shard_and_row
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from infra.runner import InlineRunner, LocalRunner
from infra.stage import run_stage

Build = Callable[[str, str, IndexSettings], Artifact]


def metadata_of(store: str, artifact: Artifact) -> Any:
    version = open_dataset(store, "curated")
    codes = artifacts.load(version.artifact.path("codes", figures_of(artifact)["codes"]))
    assert codes is not None
    ids = np.load(artifact.path(IDS))
    return Metadata.open(artifact.url, codes.url, ids).table()


def test_the_index_holds_the_kept_rows_with_a_vector(fresh_store: str, build: Build) -> None:
    artifact = build(fresh_store, "curated", IndexSettings())
    part = artifact.parts[0]
    assert (part.rows, part.kept) == (60, 56)
    assert part.dropped == {"not_kept": 3, "no_vector": 1}
    assert artifacts.verify(artifact) == []
    metadata = metadata_of(fresh_store, artifact)
    ids = metadata["id"].to_pylist()
    assert ids == sorted(ids)
    assert {shard_and_row(identifier)[1] for identifier in ids} == set(range(60)) - {0, 1, 2, 7}
    expected = figures_of(artifact)
    assert expected["kind"] == "flat"
    assert expected["recall@10"] == {"image": 1.0, "text": 1.0}
    assert 8 <= expected["bytes_per_vector"] < 4 * 16
    assert set(expected["milliseconds"]) == {"p50", "p95", "p99"}


def test_metadata_are_the_facts_and_scores_of_each_row(fresh_store: str, build: Build) -> None:
    artifact = build(fresh_store, "curated", IndexSettings())
    metadata = metadata_of(fresh_store, artifact)
    version = open_dataset(fresh_store, "curated")
    rows = {row["uid"]: row for row in version.rows(0).to_pylist()}
    pool = open_dataset(fresh_store, "pool")
    folder = version.artifact.settings["scores"]["clip"]
    columns = read_table(pool.artifact.path("scores", folder, "columns", "00000.parquet"))
    for entry in metadata.to_pylist():
        row = rows[entry["uid"]]
        assert (entry["caption"], entry["url"]) == (row["caption"], row["url"])
        assert row["meta"] == f'{{"concept": "{entry["concept"]}"}}'
        assert entry["clip_similarity"] == columns["similarity"][row["row"]].as_py()


def test_the_draft_reads_nothing_and_knows_its_digest() -> None:
    draft = index_draft("nowhere/curated/abc", "abc", IndexSettings())
    assert draft.url == f"nowhere/curated/abc/index/{draft.spec.digest}"
    assert draft.spec.digest == index_draft("elsewhere", "abc", IndexSettings()).spec.digest
    assert draft.spec.digest != index_draft("elsewhere", "abd", IndexSettings()).spec.digest
    other = IndexSettings(kind="ivf_flat")
    assert draft.spec.digest != index_draft("elsewhere", "abc", other).spec.digest


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_finds_what_it_holds(fresh_store: str, build: Build, kind: str) -> None:
    settings = IndexSettings.model_validate({"kind": kind, "lists": 8})
    artifact = build(fresh_store, "curated", settings)
    assert artifacts.verify(artifact) == []
    idx = indexes.open(f"{fresh_store}/curated")
    assert idx.figures["kind"] == kind
    assert min(idx.figures["recall@10"].values()) >= 0.99
    for uid in idx.metadata["uid"].to_pylist()[::9]:
        hits = idx.search(idx.vector(uid), k=3)
        exact = idx.search(idx.vector(uid), k=3, where="true")
        assert hits.table["uid"][0].as_py() == uid
        assert hits.table["similarity"].to_pylist() == exact.table["similarity"].to_pylist()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_same_bytes_again_for_any_number_of_threads(
    fresh_store: str, kind: str, tmp_path: Path
) -> None:
    settings = IndexSettings.model_validate({"kind": kind, "lists": 8})
    version = open_dataset(fresh_store, "curated")
    before = faiss.omp_get_max_threads()
    contents = []
    try:
        for threads in (1, 2):
            faiss.omp_set_num_threads(threads)
            made = [
                run_stage(
                    stage.name, {"": stage.draft}, stage.items(), stage.work,
                    InlineRunner(), SilentDisplay(),
                )[""]
                for stage in stages(version.url, version.artifact.digest, settings)
            ]  # fmt: skip
            contents.append([artifact.content for artifact in made])
            for artifact in made:
                filesystem.remove_tree(artifact.url)
    finally:
        faiss.omp_set_num_threads(before)
    assert contents[0] == contents[1]


@pytest.mark.slow
def test_the_same_bytes_for_any_number_of_workers(new_store: Any, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", shards=3)
    version = open_dataset(store, "curated")
    settings = IndexSettings(kind="ivf_rabitq", lists=8)
    contents = []
    for runner in (InlineRunner(), LocalRunner(2)):
        with runner:
            made = [
                run_stage(
                    stage.name, {"": stage.draft}, stage.items(), stage.work, runner,
                    SilentDisplay(),
                )[""]
                for stage in stages(version.url, version.artifact.digest, settings)
            ]  # fmt: skip
        contents.append([artifact.content for artifact in made])
        for artifact in made:
            filesystem.remove_tree(artifact.url)
    assert contents[0] == contents[1]


def test_shards_that_were_encoded_are_not_encoded_again(new_store: Any, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store", shards=2)
    version = open_dataset(store, "curated")
    trained, coded, _ = stages(version.url, version.artifact.digest, IndexSettings())
    display, runner = SilentDisplay(), InlineRunner()
    run_stage("", {"": trained.draft}, trained.items(), trained.work, runner, display)
    calls: list[int] = []

    def dying(shard: int, todo: list[str]) -> Any:
        calls.append(shard)
        if len(calls) == 2:
            raise SluiceError("killed", "")
        return coded.work(shard, todo)

    with pytest.raises(SluiceError, match="killed"):
        run_stage("", {"": coded.draft}, coded.items(), dying, runner, display)
    made = run_stage("", {"": coded.draft}, coded.items(), dying, runner, display)[""]
    assert calls == [0, 1, 1]
    assert (made.totals["rows"], made.totals["kept"]) == (120, 112)


def test_an_inverted_file_probes_until_the_target_is_met(fresh_store: str, build: Build) -> None:
    loose, tight = (
        figures_of(
            build(
                fresh_store,
                "curated",
                IndexSettings(
                    kind="ivf_flat", recall_target=target, lists=20, publish_below_target=True
                ),
            )
        )
        for target in (0.1, 0.99)
    )
    assert loose["kind"] == "ivf_flat"
    assert loose["probes"] < tight["probes"]
    assert min(tight["recall@10"].values()) > min(loose["recall@10"].values())
    recalls = [point["recall@10"]["image"] for point in tight["points"]]
    assert recalls == sorted(recalls)


def test_an_index_below_its_target_is_not_opened(
    fresh_store: str, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(fresh_store, "curated", IndexSettings())
    pointer = Path(open_dataset(fresh_store, "curated").artifact.path("index", LATEST))
    before = json.loads(pointer.read_text())
    monkeypatch.setattr("indexes.building.measure", lambda *_: {
        "probes": 1, "factor": 1, "recall@1": {}, "recall@10": {"image": 0.5}, "points": [],
    })  # fmt: skip
    settings = IndexSettings(kind="ivf_flat")
    with pytest.raises(SluiceError, match=r"image 0\.5000.* below the target of 0\.99") as error:
        build(fresh_store, "curated", settings)
    assert "publish_below_target" in error.value.way_out
    assert json.loads(pointer.read_text()) == before
    wanted = settings.model_copy(update={"publish_below_target": True})
    artifact = build(fresh_store, "curated", wanted)  # of the same digest: nothing is built again
    assert json.loads(pointer.read_text()) == {"digest": artifact.digest} != before


def test_a_notebook_builds_what_the_flow_builds(fresh_store: str, build: Build) -> None:
    idx = indexes.build(f"{fresh_store}/curated", kind="ivf_sq8", memory="1GiB")
    assert "ivf_sq8" in repr(idx) and len(idx) == 56
    settings = IndexSettings.model_validate({"kind": "ivf_sq8", "memory": "1GiB"})
    assert build(fresh_store, "curated", settings).digest == idx.artifact.digest
    pool = indexes.build(f"{fresh_store}/pool")
    assert len(pool) == 59
    assert pool.figures["embedding"] == idx.figures["embedding"]


def test_a_prefix_finds_candidates_that_whole_vectors_score(fresh_store: str, build: Build) -> None:
    artifact = build(fresh_store, "curated", IndexSettings(kind="ivf_flat", dimensions=8, lists=4))
    figures = figures_of(artifact)
    assert (figures["indexed_dimensions"], figures["dimension"]) == (8, 16)
    assert min(figures["recall@10"].values()) >= 0.99
    idx = indexes.open(f"{fresh_store}/curated")
    query = np.ones(16, np.float32)
    exact = idx.search(query, where="true").table["similarity"].to_pylist()
    assert idx.search(query).table["similarity"].to_pylist() == exact
    with pytest.raises(SluiceError, match=r"index\.dimensions=17, .* has 16"):
        build(fresh_store, "curated", IndexSettings(dimensions=17))


def test_a_plain_version_names_its_score_folder(fresh_store: str, build: Build) -> None:
    version = open_dataset(fresh_store, "curated")
    folder = version.artifact.settings["scores"]["clip"]
    artifact = build(fresh_store, "pool", IndexSettings(embedding=f"{folder}/text"))
    assert artifact.parts[0].kept == 60
    with pytest.raises(SluiceError, match="has no scores 'clip'") as error:
        build(fresh_store, "pool", IndexSettings())
    assert folder in error.value.way_out


@pytest.mark.parametrize(
    ("embedding", "what"),
    [("clap/image", "no scores 'clap'"), ("clip/sound", "no vectors 'sound'")],
)
def test_an_embedding_that_is_not_there(
    fresh_store: str, build: Build, embedding: str, what: str
) -> None:
    with pytest.raises(SluiceError, match=what):
        build(fresh_store, "curated", IndexSettings(embedding=embedding))


def test_damaged_vectors_name_their_file(fresh_store: str, build: Build) -> None:
    version = open_dataset(fresh_store, "curated")
    pool = open_dataset(fresh_store, "pool")
    folder = version.artifact.settings["scores"]["clip"]
    path = Path(pool.artifact.path("scores", folder, "image", "00000.npy"))
    whole = np.load(path)
    for damage in (b"", path.read_bytes()[:300], b"\x80\x04K\x01."):
        path.write_bytes(damage)
        with pytest.raises(SluiceError, match=r"00000\.npy"):
            build(fresh_store, "curated", IndexSettings())
    np.save(path, whole.astype(np.float64))
    with pytest.raises(SluiceError, match="float64"):
        build(fresh_store, "curated", IndexSettings())
    np.save(path, whole[:-1])
    with pytest.raises(SluiceError, match="60 rows"):
        build(fresh_store, "curated", IndexSettings())
    np.save(path, np.zeros_like(whole))
    with pytest.raises(SluiceError, match="no kept row with a vector"):
        build(fresh_store, "curated", IndexSettings())
    np.save(path, whole)
    assert build(fresh_store, "curated", IndexSettings()).parts[0].kept == 56


def test_one_vector_is_an_index(fresh_store: str, build: Build) -> None:
    version = open_dataset(fresh_store, "curated")
    pool = open_dataset(fresh_store, "pool")
    folder = version.artifact.settings["scores"]["clip"]
    path = Path(pool.artifact.path("scores", folder, "image", "00000.npy"))
    whole = np.load(path)
    whole[np.arange(60) != 20] = 0
    np.save(path, whole)
    artifact = build(fresh_store, "curated", IndexSettings())
    assert figures_of(artifact)["recall@10"] == {}
    assert figures_of(artifact)["vectors"] == 1


def test_a_missing_version_is_named(tmp_path: Path) -> None:
    nothing = str(tmp_path / "nothing")
    work = IndexWork(str(tmp_path / "index"), nothing, nothing, nothing, IndexSettings())
    with pytest.raises(SluiceError, match="nothing"):
        work(None, [""])


def test_an_index_that_crashes_its_reader_is_not_committed(
    fresh_store: str, build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    crash = tmp_path / "sitecustomize.py"
    crash.write_text("import os, sys\nif sys.flags.no_site == 0: os.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    settings = IndexSettings(kind="ivf_flat")
    with pytest.raises(SluiceError, match="signal 6"):
        build(fresh_store, "curated", settings)
    version = open_dataset(fresh_store, "curated")
    draft = index_draft(version.url, version.artifact.digest, settings)
    assert artifacts.load(draft.url) is None
    monkeypatch.delenv("PYTHONPATH")
    assert build(fresh_store, "curated", settings).parts[0].kept == 56


def test_only_our_kinds_of_index_are_read(tmp_path: Path) -> None:
    part = write_index(faiss.IndexFlatIP(4), str(tmp_path), "index.faiss")
    with pytest.raises(SluiceError, match="IndexFlatIP"):
        read_faiss(str(tmp_path / "index.faiss"), part.sha256)
    with pytest.raises(SluiceError, match="not the file that its manifest names"):
        read_faiss(str(tmp_path / "index.faiss"), "0" * 64)
    foreign = dataset.write_table(str(tmp_path), "t.parquet", pa.table({"a": [1]}))
    with pytest.raises(SluiceError, match="faiss cannot read"):
        read_faiss(str(tmp_path / "t.parquet"), foreign.sha256)


def test_an_index_on_an_object_store_is_read(tmp_path: Path) -> None:
    index = faiss.IndexHNSWSQ(4, faiss.ScalarQuantizer.QT_fp16, 8, faiss.METRIC_INNER_PRODUCT)
    index.train(np.ones((1, 4), np.float32))
    index.add(np.eye(4, dtype=np.float32))
    part = write_index(index, "memory://indexes", "index.faiss")
    assert read_faiss("memory://indexes/index.faiss", part.sha256).ntotal == 4
    with pytest.raises(SluiceError, match="missing"):
        read_faiss("memory://indexes/other.faiss", part.sha256)


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    index = faiss.IndexFlatIP(64)
    index.add(np.ones((5000, 64), np.float32))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        with pytest.raises(SluiceError, match=r"cannot write .*index\.faiss"):
            write_index(index, str(tmp_path), "index.faiss")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "ivf"},
        {"memory": "much"},
        {"embedding": "clip"},
        {"recall_target": 0},
        {"list": 3},
        {"lists": -1},
    ],
)
def test_settings_refuse_what_they_do_not_know(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        IndexSettings.model_validate(values)
