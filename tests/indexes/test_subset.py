import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import indexes
from indexes.search import Index
from indexes.settings import IndexSettings
from infra import artifacts
from infra.artifacts import Artifact
from infra.dataset import Dataset, open_dataset
from infra.errors import SluiceError


@pytest.fixture(scope="module")
def idx(
    tmp_path_factory: pytest.TempPathFactory,
    new_store: Callable[..., str],
    build: Callable[[str, str, IndexSettings], Artifact],
) -> Index:
    store = new_store(tmp_path_factory.mktemp("subset"), 3)
    build(store, "curated", IndexSettings())
    return indexes.open(f"{store}/curated")


def images(dataset: Dataset) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for shard in dataset.shards:
        uids = dataset.rows(shard, ["uid"])["uid"].to_pylist()
        found |= {uids[sample.row]: sample.image for sample in dataset.samples(shard)}
    return found


def test_a_subset_holds_what_was_chosen_and_copies_nothing(idx: Index) -> None:
    hits = idx.search("a handwritten seven", k=9)
    made = hits.save_as("sevens")
    everything = images(idx.dataset)
    uids = hits.table["uid"].to_pylist()
    assert images(made) == {uid: everything[uid] for uid in uids}
    assert not list(Path(made.url).rglob("*.tar"))
    assert open_dataset(str(Path(made.url).parents[1]), "sevens").url == made.url
    assert not artifacts.verify(made.artifact)
    totals = made.artifact.totals
    assert totals["kept"] == 9 and totals["rows"] == 9 + sum(totals["dropped"].values())
    assert set(totals["dropped"]) == {"not_in_subset", "too_dark"}


def test_the_same_rows_are_the_same_subset(idx: Index) -> None:
    first = idx.search("a handwritten one", k=5).save_as("ones")
    turned = idx.search("a handwritten one", k=5)
    again = indexes.open(f"{Path(idx.dataset.url).parents[0]}").search(uid=turned[0]["uid"], k=1)
    assert first.url == turned.save_as("ones").url
    assert again.save_as("ones").url != first.url


def test_a_subset_by_condition_and_by_similarity(idx: Index) -> None:
    wide = idx.subset("wide", where="width = 64")
    assert set(images(wide)) == set(idx.sample(1000, where="width = 64").table["uid"].to_pylist())
    bound = float(idx.search("a handwritten two", k=20).table["similarity"][-1].as_py())
    near = idx.subset("near", "a handwritten two", min_similarity=bound)
    assert len(images(near)) == 20
    with pytest.raises(SluiceError, match="go together"):
        idx.subset("near", "a handwritten two")


def test_a_subset_is_searched_and_cut_like_any_version(
    idx: Index, build: Callable[[str, str, IndexSettings], Artifact]
) -> None:
    store = str(Path(idx.dataset.url).parents[1])
    made = idx.subset("wide", where="width = 64")
    build(store, "wide", IndexSettings())
    inner = indexes.open(f"{store}/wide")
    assert len(inner) == made.artifact.totals["kept"]
    hits = inner.search("a handwritten seven", k=3)
    wanted = idx.search("a handwritten seven", k=3, where="width = 64")
    assert hits.table["uid"].to_pylist() == wanted.table["uid"].to_pylist()
    assert hits.image(0).size == wanted.image(0).size
    smaller = hits.save_as("smaller")
    assert set(images(smaller)) == set(hits.table["uid"].to_pylist())


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "a b"])
def test_a_name_that_is_none_is_refused(idx: Index, name: str) -> None:
    with pytest.raises(SluiceError, match="no name"):
        idx.search("a handwritten seven").save_as(name)


def test_nothing_is_no_subset(idx: Index) -> None:
    with pytest.raises(SluiceError, match="no row"):
        idx.subset("none", where="width = 1")


def test_a_pool_embedded_twice_keeps_the_scores_it_was_searched_by(
    new_store: Callable[..., str],
    build: Callable[[str, str, IndexSettings], Artifact],
    tmp_path: Path,
) -> None:
    store = new_store(tmp_path)
    pool = Path(open_dataset(store, "pool").url)
    (first,) = (pool / "scores").iterdir()
    shutil.copytree(first, pool / "scores" / f"clip-{'f' * 16}")
    build(store, "pool", IndexSettings(embedding=f"{first.name}/image"))
    made = indexes.open(f"{store}/pool").subset("wide", where="width = 64")
    assert made.artifact.settings["scores"] == {"clip": first.name}
    build(store, "wide", IndexSettings())
    assert len(indexes.open(f"{store}/wide")) == made.artifact.totals["kept"]
