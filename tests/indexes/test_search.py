import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import indexes
from indexes.grid import figure
from indexes.metadata import FOLDER, metadata_path
from indexes.search import Index
from indexes.settings import IndexSettings
from infra.artifacts import Artifact
from infra.errors import SluiceError

Build = Callable[[str, str, IndexSettings], Artifact]
NewStore = Callable[..., str]
Kinds = dict[str, Index]


@pytest.fixture(scope="module")
def idx(store: str) -> Index:
    return indexes.open(f"{store}/curated")


def brute_force(idx: Index, vector: np.ndarray, allowed: np.ndarray) -> list[int]:
    """Ids by similarity, from the vectors as they lie in the score folder."""
    ids = idx.metadata.column("id").to_numpy()[allowed]
    rows = np.stack([idx.vector(uid) for uid in np.array(idx.metadata["uid"])[allowed]])
    similarity = rows @ vector.astype(np.float32)
    return ids[np.lexsort((ids, -similarity))].tolist()


def test_open_gives_the_latest_version_or_the_named_one(store: str, idx: Index) -> None:
    version = idx.dataset.artifact.digest
    assert indexes.open(f"{store}/curated@{version}").artifact.url == idx.artifact.url
    assert idx.name == f"curated@{version}"
    assert len(idx) == 2 * (60 - 3 - 1)
    assert "112 vectors of 16 dimensions" in repr(idx)


def test_a_text_finds_what_brute_force_finds(idx: Index) -> None:
    hits = idx.search("a handwritten seven", k=10)
    vector = idx.encoder.encode_texts(["a handwritten seven"])[0]
    everything = np.ones(len(idx), bool)
    assert hits.table["id"].to_pylist() == brute_force(idx, vector, everything)[:10]
    assert hits.table["rank"].to_pylist() == list(range(1, 11))
    assert (np.diff(hits.table["similarity"].to_numpy()) <= 0).all()


def test_a_picture_finds_itself(idx: Index, tmp_path: Path) -> None:
    hit = idx.search(uid=idx.metadata["uid"][20].as_py(), k=1)[0]
    picture = idx.search(uid=idx.metadata["uid"][20].as_py(), k=1).image(0)
    path = tmp_path / "picture.png"
    picture.save(path)
    for hits in (
        idx.search(picture),
        idx.search(path),
        idx.search(image=str(path)),
        idx.search(np.asarray(picture)),
    ):
        assert hits[0]["uid"] == hit["uid"]
        assert hits[0]["similarity"] == pytest.approx(1.0, abs=2e-3)


def test_a_vector_needs_no_model(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "indexes.encoder", None)  # importing it would fail
    idx = indexes.open(f"{store}/curated")
    vector = idx.vector(idx.metadata["uid"][3].as_py())
    assert idx.search(3.0 * vector)[0]["uid"] == idx.metadata["uid"][3].as_py()
    assert idx.search(vector.tolist(), k=1)[0]["similarity"] == pytest.approx(1.0, abs=1e-3)


def test_a_uid_is_not_its_own_neighbour(idx: Index) -> None:
    uid = idx.metadata["uid"][30].as_py()
    hits = idx.search(uid=uid, k=5)
    assert len(hits) == 5
    assert uid not in hits.table["uid"].to_pylist()
    more = hits.more_like(hits[0]["uid"], k=3)
    assert len(more) == 3
    assert hits.more_like(0, k=3).to_arrow().equals(more.to_arrow())


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory, build: Build, new_store: NewStore) -> Kinds:
    """The same version indexed by a full scan, and by an inverted file that looks into one list."""
    store = new_store(tmp_path_factory.mktemp("kinds"), 1)
    settings = {
        "flat": IndexSettings(kind="flat"),
        "ivf_flat": IndexSettings(kind="ivf_flat", lists=8, recall_target=0.01),
    }
    digests = {kind: build(store, "curated", chosen).digest for kind, chosen in settings.items()}
    return {kind: indexes.open(f"{store}/curated", digest) for kind, digest in digests.items()}


@pytest.mark.parametrize("kind", ["flat", "ivf_flat"])
@pytest.mark.parametrize(
    "where",
    [
        "concept = 'seven'",
        "width > 48 and clip_similarity > 0",
        "uid < '2'",
        "width>0",
        "clip.similarity > 0.1",
    ],
)
def test_conditions_are_exact(kinds: Kinds, kind: str, where: str) -> None:
    idx = kinds[kind]
    frame = idx.metadata.to_pandas()
    allowed = {
        "concept = 'seven'": frame.concept == "seven",
        "width > 48 and clip_similarity > 0": (frame.width > 48) & (frame.clip_similarity > 0),
        "uid < '2'": frame.uid < "2",
        "width>0": frame.width > 0,
        "clip.similarity > 0.1": frame.clip_similarity > 0.1,
    }[where]
    vector = idx.vector(frame.uid[0])
    found = idx.search(vector, k=len(idx), where=where).table["id"].to_pylist()
    expected = brute_force(idx, vector, allowed.to_numpy())
    if kind == "flat" or allowed.mean() < 0.2:
        assert found == expected
    else:
        assert set(found) <= set(expected)


def test_a_condition_that_nothing_meets_gives_no_hits(idx: Index) -> None:
    hits = idx.search("anything", where="width > 10000")
    assert len(hits) == 0
    assert hits.to_pandas().empty
    assert "0 hits" in hits._repr_html_()


def test_min_similarity_and_k_bound_the_hits(idx: Index) -> None:
    everything = idx.search("a three", k=10_000)
    assert len(everything) == len(idx)
    middle = everything[50]["similarity"]
    assert len(idx.search("a three", k=10_000, min_similarity=middle)) == 51


@pytest.mark.parametrize(
    "where",
    [
        "widht > 3",
        "width >",
        "1=1) union select 7 as id where (1=1",
        "true; drop table t",
        "exists (select * from read_text('/etc/hostname'))",
        "exists (select * from read_csv('https://example.org/x.csv'))",
    ],
)
def test_a_bad_condition_is_one_clear_error(idx: Index, where: str) -> None:
    with pytest.raises(SluiceError, match="where=") as error:
        idx.search(np.ones(16), where=where)
    assert "width" in error.value.way_out


@pytest.mark.parametrize(
    "query",
    [
        np.ones(3),
        np.zeros(16),
        np.full(16, np.nan),
        np.ones((2, 16)),
        np.zeros((4, 4, 4), np.uint8),
        {"a": 1},
        [{}, "b"],
        "  ",
        Path("no/such.png"),
    ],
)
def test_a_bad_query_is_one_clear_error(idx: Index, query: object) -> None:
    with pytest.raises(SluiceError):
        idx.search(query)  # type: ignore[arg-type]


def test_bad_calls_say_what_to_do(idx: Index, tmp_path: Path) -> None:
    with pytest.raises(SluiceError, match="exactly one"):
        idx.search()
    with pytest.raises(SluiceError, match="exactly one"):
        idx.search("a", uid="b")
    with pytest.raises(SluiceError, match="k=0"):
        idx.search("a", k=0)
    with pytest.raises(SluiceError, match="explain"):
        idx.search(uid="f' or '1'='1")
    (tmp_path / "text.png").write_bytes(b"no picture")
    with pytest.raises(SluiceError, match="no picture"):
        idx.search(tmp_path / "text.png")


def test_open_says_what_is_missing(store: str, fresh_store: str) -> None:
    with pytest.raises(SluiceError, match="no dataset"):
        indexes.open(f"{store}/nothing")
    with pytest.raises(SluiceError, match="run index"):
        indexes.open(f"{fresh_store}/curated")
    with pytest.raises(SluiceError, match="starts with"):
        indexes.open(f"{store}/curated", index="zzzz")


def test_the_index_published_last_is_opened_and_another_by_its_digest(kinds: Kinds) -> None:
    version = kinds["flat"].dataset.url.rpartition("/")[0]
    assert indexes.open(version).artifact.digest == kinds["ivf_flat"].artifact.digest
    digest = kinds["flat"].artifact.digest
    assert indexes.open(version, digest[:8]).artifact.digest == digest
    Path(kinds["flat"].artifact.url).parent.joinpath("latest.json").rename(f"{version}/aside")
    try:
        with pytest.raises(SluiceError, match="none") as error:
            indexes.open(version)
        assert digest in error.value.way_out
    finally:
        Path(f"{version}/aside").rename(Path(kinds["flat"].artifact.url).parent / "latest.json")


@pytest.mark.parametrize("file", ["index.faiss", "lists.bin", "lists.npy", "ids.npy"])
def test_a_damaged_index_is_refused(fresh_store: str, build: Build, file: str) -> None:
    artifact = build(fresh_store, "curated", IndexSettings(kind="ivf_sq8"))
    path = Path(artifact.path(file))
    whole = path.read_bytes()
    for damage in (whole[:-8], whole + bytes(8), b"", b"PK" + whole[2:]):
        if file == "lists.bin" and len(damage) == len(whole):
            continue  # its size is what is checked
        path.write_bytes(damage)
        with pytest.raises(SluiceError, match="damaged"):
            indexes.open(f"{fresh_store}/curated")
    path.unlink()
    with pytest.raises(SluiceError, match="missing"):
        indexes.open(f"{fresh_store}/curated")


def test_an_index_of_another_version_is_refused(fresh_store: str, build: Build) -> None:
    made = Path(build(fresh_store, "curated", IndexSettings()).url)
    pool = Path(fresh_store, "pool")
    version = (pool / "latest").read_text()
    shutil.copytree(made.parent, pool / version / "index")
    with pytest.raises(SluiceError, match=f"is not an index of pool@{version}"):
        indexes.open(str(pool))


def test_another_model_is_refused(
    store: str, tmp_path: Path, new_model: Callable[[Path, int], Path]
) -> None:
    other = new_model(tmp_path / "other", 1)
    with pytest.raises(SluiceError, match="did not make the vectors"):
        indexes.open(f"{store}/curated", model=str(other)).search("a seven")
    same = new_model(tmp_path / "same", 0)
    assert len(indexes.open(f"{store}/curated", model=str(same)).search("a seven", k=3)) == 3


def test_without_text_vectors_a_picture_tells_the_model(
    fresh_store: str, build: Build, tmp_path: Path, new_model: Callable[[Path, int], Path]
) -> None:
    for text in Path(fresh_store).glob("pool/*/scores/*/text"):
        text.rename(tmp_path / "text")
    artifact = build(fresh_store, "curated", IndexSettings())
    assert set(artifact.parts[0].extra["recall@10"]) == {"image"}
    assert len(indexes.open(f"{fresh_store}/curated").search("a seven", k=3)) == 3
    other = new_model(tmp_path / "other", 1)
    with pytest.raises(SluiceError, match="did not make the vectors"):
        indexes.open(f"{fresh_store}/curated", model=str(other)).search("a seven")


def test_a_model_outside_the_store_is_asked_for(
    tmp_path: Path, new_store: NewStore, build: Build, model_folder: Path
) -> None:
    store = new_store(tmp_path / "store", 1, named="sha256:0123456789abcdef")
    build(store, "curated", IndexSettings())
    with pytest.raises(SluiceError, match="outside its store") as error:
        indexes.open(f"{store}/curated").search("a seven")
    assert "model=" in error.value.way_out
    idx = indexes.open(f"{store}/curated", model=str(model_folder))
    assert len(idx.search("a seven", k=3)) == 3


def test_hits_in_pandas_and_arrow(idx: Index) -> None:
    hits = idx.search("a two", k=7)
    frame = hits.to_pandas()
    assert list(frame.columns[:5]) == ["rank", "similarity", "id", "uid", "caption"]
    assert {"concept", "width", "height", "url", "clip_similarity"} <= set(frame.columns)
    assert frame.uid.tolist() == hits.to_arrow()["uid"].to_pylist() == [hit["uid"] for hit in hits]
    assert sum(hits.facets("concept").values()) == 7
    with pytest.raises(SluiceError, match="concept"):
        hits.facets("concpt")


def test_a_text_that_the_model_would_cut_is_refused(idx: Index) -> None:
    with pytest.raises(SluiceError, match="longer than the 16 tokens"):
        idx.search("five " * 15)
    assert len(idx.search("five " * 14)) == 10


def test_the_grid_shows_thumbnails_and_escapes_captions(idx: Index, hostile: str) -> None:
    hits = idx.search("five", k=len(idx))
    page = idx.search("five", k=24)._repr_html_()
    assert page.count("data:image/webp;base64,") == 24
    row = next(hit for hit in hits if hit["caption"] == hostile)
    shown = (
        figure(None, row["uid"], "1.000", row["caption"]) + idx.search(hostile[:15])._repr_html_()
    )
    assert "<script" not in shown
    assert "onerror=alert(1)>" not in shown.replace("&gt;", "")
    assert "&lt;script&gt;" in shown
    assert hits._repr_html_().count("<figure") == 24
    assert "\x1b" not in repr(idx.search("\x1b[31m five"))


def test_a_hit_gives_its_whole_picture(idx: Index) -> None:
    picture = idx.search("one", k=2).image(1)
    assert isinstance(picture, Image.Image)
    assert picture.size == (48, 48)


def test_a_list_of_queries_gives_what_each_gives_alone(idx: Index) -> None:
    vectors = [idx.vector(uid) for uid in idx.metadata["uid"].to_pylist()[:3]]
    queries = ["a handwritten seven", *vectors]
    together = idx.search(queries, k=4, where="width = 64")
    for query, hits in zip(queries, together, strict=True):
        alone = idx.search(query, k=4, where="width = 64")
        assert hits.table["id"].to_pylist() == alone.table["id"].to_pylist()
        assert hits.query == alone.query


def test_a_text_and_a_picture_meet_between_the_two(idx: Index) -> None:
    picture = idx.search("a handwritten three", k=1).image(0)
    text = idx.search("a handwritten nine", k=5).table["uid"].to_pylist()
    seen = idx.search(picture, k=5).table["uid"].to_pylist()
    both = {
        weight: idx.search(text="a handwritten nine", image=picture, weight=weight, k=5)
        for weight in (0.0, 0.5, 1.0)
    }
    assert both[1.0].table["uid"].to_pylist() == text
    assert both[0.0].table["uid"].to_pylist() == seen
    half = idx.encoder.encode_texts(["a handwritten nine"])[0].astype(np.float32)
    half = half + idx.encoder.encode_images([np.asarray(picture)])[0].astype(np.float32)
    same = idx.search(half, k=5).table["uid"].to_pylist()
    assert both[0.5].table["uid"].to_pylist() == same
    with pytest.raises(SluiceError, match="share"):
        idx.search(text="a", image=picture, weight=2)


def test_a_range_search_finds_all_that_are_so_similar(idx: Index) -> None:
    uid = idx.metadata["uid"][11].as_py()
    vector = idx.vector(uid) / np.linalg.norm(idx.vector(uid))
    rows = idx.stored(idx.metadata["id"].to_numpy())
    similarity = np.sort(rows @ vector)[::-1]
    bound = float((similarity[30] + similarity[31]) / 2)
    found = idx.range_search(vector, min_similarity=bound)
    assert len(found) == 31
    assert found.table["similarity"].to_numpy().min() >= bound
    stored = int((rows @ idx.vector(uid) >= bound).sum())
    assert len(idx.range_search(uid=uid, min_similarity=bound)) == stored - 1  # not itself
    assert len(idx.range_search(vector, min_similarity=-1)) == len(idx)
    assert len(idx.range_search(vector, min_similarity=2)) == 0


def test_neighbours_of_many_rows_at_once(idx: Index) -> None:
    uids = idx.metadata["uid"].to_pylist()[:5]
    table = idx.neighbours(uids, k=3)
    assert table["uid"].to_pylist() == [uid for uid in uids for _ in range(3)]
    for uid in uids:
        alone = idx.search(uid=uid, k=3).table["uid"].to_pylist()
        mask = np.array(table["uid"].to_pylist()) == uid
        assert np.array(table["neighbour"].to_pylist())[mask].tolist() == alone
    assert idx.neighbours([]).num_rows == 0
    with pytest.raises(SluiceError, match="no uid"):
        idx.neighbours(["nobody"])


def test_a_sample_is_random_and_repeatable(idx: Index) -> None:
    first = idx.sample(20, where="width = 64")
    assert first.table["uid"].to_pylist() == idx.sample(20, "width = 64").table["uid"].to_pylist()
    assert (
        first.table["uid"].to_pylist() != idx.sample(20, "width = 64", 1).table["uid"].to_pylist()
    )
    assert len(set(first.table["uid"].to_pylist())) == 20
    assert set(first.table["width"].to_pylist()) == {64}
    assert len(idx.sample(10_000)) == len(idx)
    assert "at random" in first.explain() and "None" not in first._repr_html_() + repr(first)


def test_hits_that_are_alike_are_told_once(idx: Index) -> None:
    hits = idx.search(idx.vector(idx.metadata["uid"][0].as_py()), k=60)
    vectors = idx.stored(hits.table["id"].to_numpy())
    close = float(np.quantile(vectors @ vectors.T, 0.9))  # random weights: all are alike
    found = hits.dedup(close)
    kept = [hits.table["id"].to_pylist().index(key) for key in found.table["id"].to_pylist()]
    assert kept[0] == 0 and kept == sorted(kept) and 1 < len(kept) < 60
    similarity = vectors @ vectors.T
    assert (similarity[np.ix_(kept, kept)] - np.eye(len(kept)) < close).all()
    gone = sorted(set(range(60)) - set(kept))
    assert all(
        similarity[place, [k for k in kept if k < place]].max() > close - 1e-6 for place in gone
    )
    assert found.table["rank"].to_pylist() == list(range(1, len(kept) + 1))
    assert len(hits.dedup(1.0)) >= len(found)


def test_hits_tell_how_they_were_found(idx: Index) -> None:
    told = idx.search("a handwritten seven", k=5, where="width = 64").explain()
    for words in ("a handwritten seven", "where width = 64", "flat", "exact", "bytes a vector"):
        assert words in told


def test_polars_is_asked_for_by_name(idx: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)  # as where it is not installed
    with pytest.raises(SluiceError, match="polars is not installed"):
        idx.sample(3).to_polars()


def test_many_vectors_without_tables(store: str) -> None:
    idx = indexes.open(f"{store}/curated")
    uids = idx.metadata.column("uid").to_pylist()[:5]
    vectors = np.stack([idx.vector(uid) for uid in uids])
    similarity, ids = idx.nearest(vectors, k=len(idx) + 2)
    assert (ids[:, -2:] == -1).all() and np.isneginf(similarity[:, -2:]).all()
    for row in range(len(uids)):
        hits = idx.search(vectors[row], k=len(idx))
        assert ids[row, :-2].tolist() == hits.table["id"].to_pylist()
        np.testing.assert_allclose(
            similarity[row, :-2], hits.table["similarity"].to_numpy(), atol=1e-6
        )
    for bad in (vectors[0], vectors[:, :3], np.full((1, vectors.shape[1]), np.nan)):
        with pytest.raises(SluiceError, match=r"shape|not numbers"):
            idx.nearest(bad)


def test_a_search_maps_only_the_metadata_of_its_hits(
    new_store: NewStore, tmp_path: Path, build: Build
) -> None:
    store = new_store(tmp_path, shards=2)
    build(store, "curated", IndexSettings())
    idx = indexes.open(f"{store}/curated")
    first = idx.facts.ids[:1]
    vector, columns = idx.stored(first)[0], idx.columns
    codes = Path(idx.dataset.artifact.path("codes", idx.figures["codes"]))
    (codes / metadata_path(1)).unlink()
    idx = indexes.open(f"{store}/curated")
    assert (len(idx), idx.columns) == (2 * (60 - 3 - 1), columns)
    assert idx.search(vector, k=1).table["id"].to_pylist() == first.tolist()
    for where in (None, "width > 0"):
        with pytest.raises(SluiceError, match=r"metadata/00001\.arrow is missing"):
            idx.search(vector, k=len(idx), where=where)
    (codes / metadata_path(0)).unlink()
    (codes / FOLDER).rmdir()
    (codes / "manifest.json").unlink()
    with pytest.raises(SluiceError, match="its metadata too"):
        _ = indexes.open(f"{store}/curated").columns
