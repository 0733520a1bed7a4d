"""Captions side by side: those of samples, and those that models wrote of the same rows."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from flows.report import ReportContext
from flows.report.captions import SHOWN, captions
from flows.report.collect import collect
from flows.report.render import render
from infra import artifacts
from infra.artifacts import Part, Spec
from infra.dataset import Dataset, part_name, write_table
from tests.flows.report.conftest import HOSTILE
from tests.flows.report.test_render import Page

Made = tuple[str, ReportContext]


@pytest.fixture
def written(made: Made, tmp_path: Path) -> Made:
    """`made`, and a folder of captions that tell the row, or are hostile, or nothing."""
    store, context = made
    assert context.curated
    curated, url = artifacts.load(context.curated), str(tmp_path / "blip-0")
    assert curated is not None
    for part in curated.parts:
        texts = [(f"row {row} of it", HOSTILE, None)[row % 3] for row in range(part.rows)]
        sure = [None if text is None else 0.25 for text in texts]
        table = pa.table(
            {"caption": pa.array(texts, pa.string()), "confidence": pa.array(sure, pa.float32())}
        )
        file = write_table(url, f"columns/{part_name(int(part.name))}.parquet", table)
        artifacts.record_part(url, Part(part.name, (file,), part.rows, part.rows), 0, 0)
    artifacts.commit(url, Spec("scores", "test"))
    return store, replace(context, captions={"blip": url})


def test_each_sample_stands_beside_its_own_captions(written: Made) -> None:
    _, context = written
    found = captions(context)
    assert found is not None and found.names == ["blip"]
    assert 0 < len(found.samples) <= SHOWN
    curated = artifacts.load(context.curated or "")
    assert curated is not None
    rows = {row["uid"]: row for shard in (0,) for row in Dataset(curated).rows(shard).to_pylist()}
    for tile, (one,) in found.samples:
        row = rows[tile.uid]
        assert row["status"] == "ok"
        if row["row"] % 3 == 0:
            assert (one.text, one.sure) == (f"row {row['row']} of it", 0.25)
        if row["row"] % 3 == 2:
            assert (one.text, one.sure) == ("", None)


def test_the_page_shows_them_and_runs_nothing(written: Made, made: Made) -> None:
    text = render(collect(*written))
    page = Page(text)
    assert "Captions anew" in text and "25.0\u00a0%" in text
    assert [each for each in page.all("section") if each.get("id") == "captions"]
    assert not page.all("script")
    assert "<script>" not in text and "\u202e" not in text
    plain = render(collect(*made))
    assert 'id="captions"' not in plain
