"""`curation.sweep` as a notebook calls it."""

import io

import numpy as np
import pytest
from PIL import Image

import curation
from curation.swept import facts_of
from infra.errors import SluiceError


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def made(maker):
    samples = [{"image": picture(20 * i), "caption": f"<b>{i}</b>\x1b"} for i in range(10)]
    made = maker.dataset("pool", [*samples, {"rejected": "not_an_image"}])
    scores = [0.0, 0.9, 0.2, 0.8, 0.4, 0.6, 0.5, 0.5, None, float("nan"), None]
    maker.score(made, "clip", {"similarity": scores})
    return made


def test_the_curve_counts_what_would_stay(made) -> None:
    swept = curation.sweep(f"{made.store}/pool", "similarity", points=9)
    assert swept.rows == 10
    frame = swept.to_pandas()
    scores = np.array([0.0, 0.9, 0.2, 0.8, 0.4, 0.6, 0.5, 0.5])
    for point in frame.to_dict("records"):
        assert point["at_least"] == (scores >= point["threshold"]).sum()
        assert point["at_most"] == (scores <= point["threshold"]).sum()
        assert point["at_least_share"] == point["at_least"] / 10
        assert swept.kept(point["threshold"]) == point["at_least_share"]
    assert "2 have no score" in repr(swept)
    page = swept._repr_html_()
    assert "<svg" in page and "2 have no score" in page


def test_a_notebook_shows_samples_by_score_above_the_curve(made) -> None:
    swept = curation.sweep(made.url, "similarity")
    table = swept.by_score(2).to_pandas()
    assert table["score"].is_monotonic_increasing and not table["id"].duplicated().any()
    assert {table["score"].min(), table["score"].max()} == {0.0, 0.9}
    for row in table.to_dict("records"):
        assert row["at_least_share"] == swept.kept(row["threshold"])
    page = swept._repr_html_()
    assert page.index('class="film"') < page.index("<svg")
    assert page.count("data:image/webp") == len(swept.by_score())
    assert "&lt;b&gt;6" in page and "<b>6" not in page and "\x1b" not in page
    assert "0.8</b><i>≥ 20\u00a0%</i><i>≤ 70\u00a0%</i>" in page


def test_a_sweep_says_its_units(made, maker) -> None:
    assert curation.sweep(made.url, "rows.bytes").meaning == "bytes"
    assert "rows.width (pixels) of 10 samples" in repr(curation.sweep(made.url, "rows.width"))
    assert curation.sweep(made.url, "similarity").meaning == ""  # its file says nothing


@pytest.mark.parametrize("name", ["{store}/pool", "{store}/pool@{digest}", "{url}"])
def test_both_sides_of_a_threshold(made, name: str) -> None:
    version = name.format(store=made.store, digest=made.digest, url=made.url)
    sides = curation.sweep(version, "2 * clip.similarity").samples(1.0, 2)
    table = sides.to_pandas()
    assert table["side"].tolist() == ["below", "below", "above", "above"]
    assert table["score"].tolist() == [0.8, 0.4, 1.0, 1.0]
    assert [int(uid, 16) for uid in table["uid"]] == [4, 2, 6, 7]
    page = sides._repr_html_()
    assert page.count("data:image/webp") == 4
    assert "&lt;b&gt;6" in page and "<b>6" not in page and "\x1b" not in page
    assert "\x1b" not in repr(sides)


def test_a_threshold_beyond_all_scores_has_one_side(made) -> None:
    swept = curation.sweep(made.url, "similarity")
    assert swept.samples(5.0, 3).to_pandas()["side"].tolist() == ["below"] * 3
    assert swept.samples(-5.0, 3).to_pandas()["side"].tolist() == ["above"] * 3
    assert len(swept.samples(0.5, 0)) == 0


def test_what_cannot_be_swept_is_told(made) -> None:
    for column, words in (
        ("similarty", "did you mean clip.similarity"),
        ("caption", "not a number"),
        ("sum(similarity)", "not a function of one row"),
    ):
        with pytest.raises(SluiceError, match=words):
            curation.sweep(made.url, column)
    with pytest.raises(SluiceError, match="no dataset 'nothing'"):
        curation.sweep(f"{made.store}/nothing", "similarity")
    with pytest.raises(SluiceError, match="has no scores 'clip-0'"):
        curation.sweep(made.url, "similarity", scores={"clip": "clip-0"})


def test_of_several_folders_of_a_scorer_one_is_to_be_named(made, maker) -> None:
    first = made.folders["clip"]
    maker.score(made, "clip", {"similarity": [1.0] * 11})
    with pytest.raises(SluiceError, match="has 2 score folders of 'clip'"):
        curation.sweep(made.url, "similarity")
    assert curation.sweep(made.url, "rows.width").values.tolist() == [64.0] * 10
    swept = curation.sweep(made.url, "similarity", scores={"clip": first})
    assert swept.values.max() == 0.9


def test_without_any_score(maker) -> None:
    made = maker.dataset("pool", [{}])
    maker.score(made, "clip", {"similarity": np.array([np.nan])})
    swept = curation.sweep(made.url, "similarity")
    assert len(swept.to_pandas()) == 0 and len(swept.samples(1.0)) == 0
    assert "<svg" not in swept._repr_html_() and "1 have no score" in repr(swept)


def test_facts_come_in_the_order_asked_for(made) -> None:
    from curation.columns import dataset_at

    ids = np.array([2 << 20, 1, (1 << 20) + 3])
    table = facts_of(dataset_at(made.url), ids)
    assert [int(uid, 16) for uid in table["uid"].to_pylist()] == [8, 1, 7]
