from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curation import columns
from curation.columns import (
    column_schemas,
    columns_url,
    dataset_at,
    folder_digest,
    read_batches,
    read_columns,
    read_vectors,
    row_count,
)
from infra.dataset import index_id
from infra.errors import SluiceError


@pytest.fixture
def made(maker):
    made = maker.dataset("pool", [{}] * 6)
    maker.score(made, "image", {"width": list(range(6))}, {"v": np.eye(6)})
    maker.score(made, "clip", {"similarity": [0.5] * 6, "width": [1] * 6})
    return made


def test_columns_are_joined_by_position_and_named_in_full(made) -> None:
    names = ["image.width", "clip.width", "rows.caption"]
    table = read_columns(made.url, made.folders, 1, names)
    assert set(table.column_names) == {*names, "rows.row"}
    assert table["image.width"].to_pylist() == [4, 5]
    assert table["rows.caption"].to_pylist() == ["picture 4", "picture 5"]


def test_small_shards_come_together_and_every_row_is_found(maker, monkeypatch) -> None:
    made = maker.dataset("pool", [{}] * 14)  # shards of 4, 4, 4 and 2 rows
    maker.score(made, "image", {"width": list(range(14))})
    monkeypatch.setattr(columns, "BATCH", 8)
    batches = list(read_batches(made.url, made.folders, range(4), ["image.width"]))
    assert [batch.shards for batch, _ in batches] == [[0, 1], [2, 3]]
    for batch, table in batches:
        for shard, part in batch.parts(table):
            assert part.equals(read_columns(made.url, made.folders, shard, ["image.width"]))
    ids = np.array([index_id(0, 3), index_id(2, 1), index_id(3, 0), index_id(3, 1)])
    batch, table = batches[1]
    place, rows = batch.find(ids)
    assert (place, rows.tolist()) == (slice(1, 4), [1, 4, 5])
    assert table["image.width"].take(rows).to_pylist() == [9, 12, 13]
    assert batch.ids[rows].tolist() == ids[place].tolist()


def test_shards_whose_columns_are_of_other_types_do_not_come_together(maker, made) -> None:
    other = maker.dataset("other", [{}] * 6)
    maker.score(other, "clip", {"similarity": pa.array([0.5] * 6, pa.float32()), "width": [1] * 6})
    replaced, by = (Path(columns_url(each.url, each.folders["clip"], 1)) for each in (made, other))
    replaced.write_bytes(by.read_bytes())
    batches = read_batches(made.url, made.folders, range(2), ["clip.similarity"])
    assert [batch.shards for batch, _ in batches] == [[0], [1]]


def test_schemas_tell_what_rules_can_be_written_over(made) -> None:
    schemas = column_schemas(made.url, made.folders, 0)
    assert set(schemas) == {"clip", "image", "rows"}
    assert schemas["clip"].names == ["similarity", "width"]


def test_vectors_come_with_their_rows(made) -> None:
    vectors = read_vectors(made.url, made.folders["image"], "v", 1)
    assert vectors.dtype == np.float16
    np.testing.assert_array_equal(vectors, np.eye(6)[4:])
    assert row_count(made.url, 1) == 2


def test_what_is_missing_or_damaged_is_named(made) -> None:
    folder = made.folders["image"]
    with pytest.raises(SluiceError, match=r"no vectors at .*/w/00000\.npy"):
        read_vectors(made.url, folder, "w", 0)
    path = Path(made.url) / "scores" / folder / "v" / "00000.npy"
    path.write_bytes((path.parent / "00001.npy").read_bytes())
    with pytest.raises(SluiceError, match=r"00000\.npy holds 2 rows, its dataset's shard 4"):
        read_vectors(made.url, folder, "v", 0)
    path.write_bytes(b"\x93NUMPY")
    with pytest.raises(SluiceError, match=r"00000\.npy is damaged"):
        read_vectors(made.url, folder, "v", 0)
    columns = path.parents[1] / "columns"
    columns.joinpath("00001.parquet").write_bytes(columns.joinpath("00000.parquet").read_bytes())
    with pytest.raises(SluiceError, match=r"00001\.parquet holds 4 rows, its dataset's shard 2"):
        read_columns(made.url, made.folders, 1, ["image.width"])
    columns.joinpath("00001.parquet").unlink()
    with pytest.raises(SluiceError, match=r"no scores at .*columns/00001\.parquet"):
        read_columns(made.url, made.folders, 1, ["image.width"])
    columns.joinpath("00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(SluiceError, match=r"00001\.parquet is damaged"):
        read_columns(made.url, made.folders, 1, ["image.width"])
    with pytest.raises(SluiceError, match="nothing is committed"):
        dataset_at(f"{made.store}/pool/none")


def test_digest_of_a_folder() -> None:
    assert folder_digest("my-scorer-0123456789abcdef") == "0123456789abcdef"
