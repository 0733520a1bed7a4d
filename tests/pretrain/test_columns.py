"""Score columns beside samples: found, aligned by row, and part of what a sample tells."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from infra import artifacts
from infra.artifacts import Part, Spec
from infra.dataset import part_name, shard_and_row, write_table
from infra.errors import SluiceError
from pretrain.columns import find_folder
from pretrain.data import Source, Stream, open_source
from pretrain.run import run_draft
from pretrain.settings import TrainSettings
from tests.pretrain.conftest import picture, png, write_version

FOLDER = "teacher-0123456789abcdef"


def version(folder: Path, count: int = 20) -> str:
    names = ("red", "green")
    samples = [
        (png(picture(names[row % 2], row, folder.name)), {"number": row}) for row in range(count)
    ]
    return write_version(folder, samples)


def add_columns(url: str, folder: str = FOLDER) -> None:
    """For row r of shard s: code 100 s + r, and the list [[0, 1], [r, s]]."""
    dataset, made = open_source(url), f"{url}/scores/{folder}"
    for part in dataset.parts:
        rows, shard = np.arange(part.rows), int(part.name)
        lists = np.zeros((part.rows, 2, 2), np.uint16)
        lists[:, 0, 1], lists[:, 1, 0], lists[:, 1, 1] = 1, rows, shard
        flat = pa.FixedSizeListArray.from_arrays(pa.array(lists.reshape(-1)), 2)
        table = pa.table(
            {
                "code": pa.array([f"{100 * shard + row}" for row in rows]),
                "pairs": pa.FixedSizeListArray.from_arrays(flat, 2),
            }
        )
        file = write_table(made, f"columns/{part_name(shard)}.parquet", table)
        artifacts.record_part(made, Part(part.name, (file,), part.rows, part.rows), 0, 0)
    artifacts.commit(made, Spec("scores", "test"))


def batches(*sources: str, **changes: object) -> Stream:
    settings = {"batch": 8, "canvas": 16, "shuffle": 40, "seed": 0, "cache_mib": 1, "threads": 1}
    mix = [Source(url) for url in sources]
    return Stream(mix, **settings, columns={"teacher": FOLDER}, **changes)  # type: ignore[arg-type]


def test_each_sample_has_its_own_row_of_the_columns(tmp_path: Path) -> None:
    url = version(tmp_path / "data" / "a")
    add_columns(url)
    stream = batches(url, texts=True)
    seen = 0
    for batch in islice(stream.batches(stream.start()), 5):
        for identifier, fields in zip(batch.ids.tolist(), batch.meta, strict=True):
            shard, row = shard_and_row(identifier)
            assert fields["number"] == 16 * shard + row
            assert fields["teacher"]["code"] == f"{100 * shard + row}"
            assert fields["teacher"]["pairs"].tolist() == [[0, 1], [row, shard]]
            assert fields["teacher"]["pairs"].dtype == np.uint16
            seen += 1
    assert seen == 40
    assert batch.select(np.array([3, 1])).columns == [batch.columns[3], batch.columns[1]]


def test_a_version_finds_the_columns_of_the_one_it_was_cut_from(tmp_path: Path) -> None:
    pool = version(tmp_path / "pool" / "p")
    add_columns(pool)
    cut = tmp_path / "curated" / "c"
    record = {"source": {"dataset": "pool", "version": "p"}}
    write_version(cut, [(png(picture("red", 1, "x")), {})])
    manifest = cut / "manifest.json"
    manifest.write_text(
        manifest.read_text().replace('"settings": {', f'"settings": {json.dumps(record)[:-1]},')
    )
    assert find_folder(open_source(str(cut)), FOLDER) == f"{pool}/scores/{FOLDER}"
    assert find_folder(open_source(pool), "other-0") is None


def test_a_source_without_them_has_none_and_some_source_must_have_them(tmp_path: Path) -> None:
    plain, rich = version(tmp_path / "data" / "a"), version(tmp_path / "data" / "b")
    with pytest.raises(SluiceError, match="no source has the score columns teacher"):
        batches(plain)
    add_columns(rich)
    stream = batches(plain, rich)
    (batch,) = islice(stream.batches(stream.start()), 1)
    has = ["teacher" in columns for columns in batch.columns]
    rich_source = stream.digests.index(open_source(rich).digest)
    assert has == (batch.sources == rich_source).tolist() and 0 < sum(has) < 8


def test_columns_that_no_option_reads_are_refused() -> None:
    with pytest.raises(ValueError, match="which no option of mae reads"):
        TrainSettings.model_validate({"objective": "mae", "columns": {"teacher": FOLDER}})
    settings = TrainSettings.model_validate({"objective": "mae"})
    assert "columns" not in settings.identity()
    run_draft("store", "mine", settings, {"a": "0" * 16})
