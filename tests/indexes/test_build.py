import resource
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from indexes import build as building
from indexes import files
from indexes.build import IndexWork, index_draft
from indexes.files import read_index, smoke_search, write_index
from indexes.kinds import ivf_flat
from indexes.metadata import Metadata
from indexes.settings import IndexSettings
from infra import artifacts, dataset
from infra.artifacts import Artifact
from infra.dataset import open_dataset, read_table, shard_and_row
from infra.errors import SluiceError

Build = Callable[[str, str, IndexSettings], Artifact]


def figures(artifact: Artifact) -> dict[str, object]:
    return dict(artifact.parts[0].extra)


def test_the_index_holds_the_kept_rows_with_a_vector(fresh_store: str, build: Build) -> None:
    artifact = build(fresh_store, "curated", IndexSettings())
    part = artifact.parts[0]
    assert (part.rows, part.kept) == (60, 56)
    assert part.dropped == {"not_kept": 3, "no_vector": 1}
    assert artifacts.verify(artifact) == []
    metadata = Metadata.of(artifact).table()
    ids = metadata["id"].to_pylist()
    assert ids == sorted(ids)
    assert {shard_and_row(identifier)[1] for identifier in ids} == set(range(60)) - {0, 1, 2, 7}
    expected = figures(artifact)
    assert expected["kind"] == "flat"
    assert expected["recall@10"] == {"image": 1.0, "text": 1.0}
    assert expected["bytes_per_vector"] > 4 * 16  # type: ignore[operator]


def test_metadata_are_the_facts_and_scores_of_each_row(fresh_store: str, build: Build) -> None:
    artifact = build(fresh_store, "curated", IndexSettings())
    metadata = Metadata.of(artifact).table()
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


@pytest.mark.parametrize("kind", ["flat", "ivf_flat"])
def test_the_same_bytes_again_for_any_number_of_threads(
    fresh_store: str, kind: str, tmp_path: Path
) -> None:
    settings = IndexSettings.model_validate({"kind": kind})
    url = open_dataset(fresh_store, "curated").url
    before = faiss.omp_get_max_threads()
    made = []
    try:
        for threads in (1, 2):
            faiss.omp_set_num_threads(threads)
            made.append(IndexWork(str(tmp_path / str(threads)), url, settings)(None, [""])[""])
    finally:
        faiss.omp_set_num_threads(before)
    assert made[0] == made[1]


def test_an_inverted_file_probes_until_the_target_is_met(fresh_store: str, build: Build) -> None:
    loose = figures(
        build(fresh_store, "curated", IndexSettings(kind="ivf_flat", recall_target=0.1))
    )
    tight = figures(build(fresh_store, "curated", IndexSettings(kind="ivf_flat", recall_target=1)))
    assert loose["kind"] == "ivf_flat"
    assert loose["lists"] == int(4 * 56**0.5)
    assert loose["probes"] < tight["probes"]  # type: ignore[operator]
    assert min(tight["recall@10"].values()) > min(loose["recall@10"].values())  # type: ignore[attr-defined]


def test_recall_is_what_a_count_of_neighbours_says() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(900, 12)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = np.arange(900, dtype=np.int64) * 3
    index = ivf_flat(vectors, 30, 0)
    index.add_with_ids(vectors, ids)
    queries = building._queries(vectors[:200], ids[:200], ids, vectors, 10)
    parameters = faiss.SearchParametersIVF(nprobe=3)
    _, found = index.search(vectors[:200], 11, params=parameters)
    products = vectors[:200] @ vectors.T
    np.fill_diagonal(products, -np.inf)
    true = ids[np.argsort(-products, axis=1)[:, :10]]
    hits = [len(set(a) & set(b)) for a, b in zip(found.tolist(), true.tolist(), strict=True)]
    recall = building._recall(index, queries, 10, 3)
    assert recall == pytest.approx(sum(hits) / 2000, abs=2e-3)
    assert 0.2 < recall < 0.95
    assert building._recall(index, queries, 10, 30) == 1.0


@pytest.mark.parametrize("needed", [1, 2, 5, 16, 40, 100])
def test_the_fewest_probes_that_are_enough(needed: int) -> None:
    chosen = building._fewest(100, lambda probes: probes >= needed)
    assert needed <= chosen <= needed + max(1, needed // 12)
    assert building._fewest(0, lambda probes: False) == 0


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
    assert figures(artifact)["recall@10"] == {}
    assert figures(artifact)["vectors"] == 1


def test_a_missing_version_is_named(tmp_path: Path) -> None:
    work = IndexWork(str(tmp_path / "index"), str(tmp_path / "nothing"), IndexSettings())
    with pytest.raises(SluiceError, match="nothing"):
        work(None, [""])


def test_an_index_that_crashes_its_reader_is_not_committed(
    fresh_store: str, build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    crash = tmp_path / "sitecustomize.py"
    crash.write_text("import os, sys\nif sys.flags.no_site == 0: os.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SluiceError, match="signal 6"):
        build(fresh_store, "curated", IndexSettings())
    version = open_dataset(fresh_store, "curated")
    assert (
        artifacts.load(index_draft(version.url, version.artifact.digest, IndexSettings()).url)
        is None
    )
    monkeypatch.delenv("PYTHONPATH")
    assert build(fresh_store, "curated", IndexSettings()).parts[0].kept == 56


def small_index(folder: Path, index: faiss.Index, count: int = 5) -> files.FilePart:
    vectors = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
    index.add_with_ids(vectors, np.arange(count))
    return write_index(index, str(folder), "index.faiss")


def test_smoke_search_asks_in_another_process(tmp_path: Path) -> None:
    part = small_index(tmp_path, faiss.IndexIDMap2(faiss.IndexFlatIP(4)))
    smoke_search(str(tmp_path), part, 4, 5)
    with pytest.raises(SluiceError, match="5 vectors of 4 dimensions"):
        smoke_search(str(tmp_path), part, 4, 6)
    with pytest.raises(SluiceError, match="does not answer"):
        smoke_search(str(tmp_path), files.FilePart(part.path, part.bytes, "0" * 64), 4, 5)


def test_only_our_kinds_of_index_are_read(tmp_path: Path) -> None:
    part = small_index(tmp_path, faiss.IndexIDMap2(faiss.IndexHNSWFlat(4, 8)))
    with pytest.raises(SluiceError, match="IndexHNSW"):
        read_index(str(tmp_path / "index.faiss"), part.sha256)
    foreign = dataset.write_table(str(tmp_path), "t.parquet", pa.table({"a": [1]}))
    with pytest.raises(SluiceError, match="faiss cannot read"):
        read_index(str(tmp_path / "t.parquet"), foreign.sha256)


def test_an_index_on_an_object_store_is_read(tmp_path: Path) -> None:
    part = small_index(tmp_path, faiss.IndexIDMap2(faiss.IndexFlatIP(4)))
    files.filesystem.write_bytes(
        "memory://indexes", "index.faiss", (tmp_path / "index.faiss").read_bytes()
    )
    assert read_index("memory://indexes/index.faiss", part.sha256).ntotal == 5
    with pytest.raises(SluiceError, match="missing"):
        read_index("memory://indexes/other.faiss", part.sha256)


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(64))
    index.add_with_ids(np.ones((5000, 64), np.float32), np.arange(5000))
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
    [{"kind": "hnsw"}, {"embedding": "clip"}, {"recall_target": 0}, {"list": 3}, {"lists": -1}],
)
def test_settings_refuse_what_they_do_not_know(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        IndexSettings.model_validate(values)
