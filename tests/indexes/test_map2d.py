"""Maps: every point is a row with its fate, near is near, and pictures carry no foreign markup."""

import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import indexes
from indexes import map2d, map2d_picture
from indexes.embeddings import store_of, vectors_of
from indexes.map2d import draw_ids, project
from indexes.map2d_picture import Group, placed, shown, svg
from indexes.search import Index
from indexes.settings import IndexSettings
from infra import artifacts
from infra.artifacts import Artifact
from infra.errors import SluiceError

SVG = "{http://www.w3.org/2000/svg}"


Build = Callable[[str, str, IndexSettings], Artifact]


@pytest.fixture(scope="module")
def idx(
    tmp_path_factory: pytest.TempPathFactory, new_store: Callable[..., str], build: Build
) -> Index:
    store = new_store(tmp_path_factory.mktemp("maps"), 1)
    build(store, "curated", IndexSettings())
    return indexes.open(f"{store}/curated")


def texts(picture: str) -> list[str]:
    return ["".join(each.itertext()) for each in ElementTree.fromstring(picture).iter(f"{SVG}text")]


def test_points_are_rows_with_what_became_of_them(idx: Index) -> None:
    found = idx.map2d()
    rows = {row["uid"]: row for row in idx.dataset.rows(0).to_pylist()}
    assert len(found) == 59  # all but the one without a vector
    for point in found.table.to_pylist():
        row = rows[point["uid"]]
        assert point["kept"] == (row["status"] == "ok")
        assert (point["reason"], point["caption"]) == (row["reason"], row["caption"])
        assert np.isfinite([point["x"], point["y"]]).all()
    assert "56 kept, 3 too_dark" in repr(found)
    kept = idx.map2d(dropped=False)
    assert sorted(kept.table["id"].to_pylist()) == idx.facts.ids.tolist()
    assert len(idx.map2d(20)) == len(idx.map2d(20, dropped=False)) == 20


def test_a_map_of_hits_shows_these(idx: Index) -> None:
    hits = idx.search(idx.stored(idx.facts.ids[:1])[0], k=12)
    assert set(hits.map2d().table["id"].to_pylist()) == set(hits.table["id"].to_pylist())
    wide = idx.map2d(where="width = 64")
    assert len(wide) == len(idx.facts.matching("width = 64"))
    with pytest.raises(SluiceError, match="2 vectors make no map"):
        idx.search(idx.stored(idx.facts.ids[:1])[0], k=2).map2d()
    with pytest.raises(SluiceError, match="too long"):
        idx.map2d(10**6)


def test_a_map_is_made_once_and_is_the_same_again(
    idx: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = idx.map2d(40, seed=3)
    places = draw_ids(idx.dataset, 40, 3)
    embedding = vectors_of(idx.dataset, idx.figures["embedding"])
    again = map2d.map_table(idx.dataset, embedding, places, 40, 3)
    assert again.equals(first.table)
    monkeypatch.setattr(map2d, "project", None)
    assert idx.map2d(40, seed=3).table.equals(first.table)
    assert idx.map2d(40, seed=3)._repr_html_() == first._repr_html_()
    for folder in Path(idx.dataset.url, "maps").iterdir():
        made = artifacts.load(str(folder))
        assert made is not None and artifacts.verify(made) == []
    with pytest.raises(TypeError):
        idx.map2d(40, seed=4)  # another map, which would have to be made


def test_a_store_that_cannot_be_written_gets_no_copy(idx: Index, tmp_path: Path) -> None:
    shutil.copytree(store_of(idx.dataset), tmp_path / "store")
    other = indexes.open(f"{tmp_path}/store/{idx.name}")
    shutil.rmtree(other.dataset.artifact.path("maps"), ignore_errors=True)
    Path(other.dataset.artifact.path("maps")).write_text("in the way")
    with pytest.warns(UserWarning, match="not kept in the store"):
        assert len(other.map2d(30)) == 30


def test_what_is_near_stays_near() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 24))
    group = np.arange(240) % 6
    vectors = centres[group] + 0.1 * rng.normal(size=(240, 24))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    places = project(vectors.astype(np.float32), 0)
    assert (places == project(vectors.astype(np.float32), 0)).all()
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (group[distance.argmin(axis=1)] == group).mean() > 0.98


@pytest.mark.parametrize("count", [5, 6, 30])
def test_vectors_that_are_all_alike_have_places_too(count: int) -> None:
    assert np.isfinite(project(np.ones((count, 8), np.float32), 0)).all()


def test_rows_are_drawn_from_all_shards_or_from_some(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = indexes.open(f"{store}/curated").dataset
    every = draw_ids(dataset, 10**5, 0)
    assert len(every) == len(set(every.tolist())) == 120
    some = draw_ids(dataset, 40, 0)
    assert len(some) == 60 and set(some.tolist()) < set(every.tolist())
    assert {int(key) >> 20 for key in some} == {0, 1}
    monkeypatch.setattr(map2d, "SHARDS", 1)
    assert len({int(key) >> 20 for key in draw_ids(dataset, 40, 0)}) == 1


def test_hostile_captions_stay_text(idx: Index, hostile: str) -> None:
    page = idx.map2d()._repr_html_()
    assert "<script" not in page and "<img" not in page
    tree = ElementTree.fromstring(page)
    told = [title.text or "" for title in tree.iter(f"{SVG}title")]
    assert any(hostile[:60] in title for title in told)
    assert len(told) == 59
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    odd = svg(
        "<b>\x1b", [Group("kept", [(0, 0), (1, 1)], [("\x00", "\x07\ufffe<i>"), ("b", None)])]
    )
    assert len(list(ElementTree.fromstring(odd).iter(f"{SVG}circle"))) == 3
    assert texts(odd) == ["<b>", "kept2"]


def test_reasons_beyond_the_looks_are_one() -> None:
    names = ["kept", *(f"reason_{number}" for number in range(9))]
    groups = [Group(name, [(place, 0)], [(name, "")]) for place, name in enumerate(names)]
    looks = shown(groups)
    assert sum(len(group.places) for group, _, _ in looks) == len(names)
    assert looks[-1][0].name == "4 other reasons"
    assert len({colour for _, colour, _ in looks}) == len({shape for *_, shape in looks}) == 7
    assert shown(groups[1:])[0][1] != shown(groups)[0][1]  # no reason looks like kept
    assert len(shown(groups[:7])) == 7


def test_points_lie_inside_and_axes_have_one_scale() -> None:
    (places,) = placed([Group("kept", [(-50, 3), (50, 3), (0, 28)], [("", "")] * 3)])
    (left, low), (right, _), (middle, high) = places
    assert right - left == pytest.approx(4 * (low - high))
    assert middle == pytest.approx((left + right) / 2)
    assert left >= 0 and right <= map2d_picture.SIDE
    assert placed([Group("kept", [(1, 1), (1, 1)], [("", "")] * 2)])[0][0][0] > 0


def test_it_is_saved_as_a_picture(idx: Index, tmp_path: Path) -> None:
    found = idx.map2d(30)
    found.save(tmp_path / "map.svg")
    found.save(str(tmp_path / "map.png"))
    assert texts((tmp_path / "map.svg").read_text())[0] == idx.name
    with Image.open(tmp_path / "map.png") as picture:
        colours = picture.convert("RGB").getcolors(2**20)
        assert colours is not None and len(colours) > 10
        assert max(colours)[1] == (255, 255, 255)
    with pytest.raises(SluiceError, match="neither PNG nor SVG"):
        found.save(tmp_path / "map.pdf")
