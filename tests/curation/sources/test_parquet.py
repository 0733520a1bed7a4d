"""Parquet with image bytes: what good and bad files yield."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.settings import SourceSettings
from curation.sources import Record, open_source
from infra.errors import SluiceError
from tests.curation.sources.made import reasons, records, write_parquet


def columns(count: int) -> dict[str, Any]:
    return {
        "jpg": pa.array([b"image %d" % index for index in range(count)], pa.binary()),
        "caption": [f"caption {index}" for index in range(count)],
    }


def test_rows_of_a_parquet_file(tmp_path: Path) -> None:
    extra = {"url": ["u0", None], "uid": ["a" * 32, "b"], "nsfw": [0.5, None], "raw": [b"0", b"1"]}
    source = write_parquet(tmp_path / "p.parquet", columns(2) | extra)
    label = f"{tmp_path.name}/p.parquet"
    assert records(source) == [
        Record(f"{label}#0", b"image 0", "caption 0", "u0", "a" * 32, {"nsfw": 0.5}),
        Record(f"{label}#1", b"image 1", "caption 1", None, "b", {"nsfw": None}),
    ]


def test_other_names_and_hugging_face_images(tmp_path: Path) -> None:
    images = [{"bytes": b"x", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, None]
    write_parquet(tmp_path / "p.parquet", {"image": images, "TEXT": ["a", "b", "c"]})
    source = SourceSettings(parquet=str(tmp_path), image="image", caption="TEXT")
    found = records(source)
    assert [record.image for record in found] == [b"x", None, None]
    assert reasons(found) == [None, "missing_image", "missing_image"]


@pytest.mark.parametrize("role", ["image", "caption", "url", "uid"])
def test_a_missing_column_is_named_with_those_there_are(role: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "p.parquet", columns(2))
    source = SourceSettings.model_validate({"parquet": str(tmp_path), role: "picture"})
    with pytest.raises(
        SluiceError, match=f"no column 'picture' for the {role}; it has jpg, caption"
    ):
        open_source(source).units(10)


def test_a_column_of_a_wrong_type_is_named(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "p.parquet", {"jpg": ["path.jpg"], "caption": ["a"]})
    with pytest.raises(SluiceError, match="image column 'jpg' holds string, not bytes"):
        open_source(source).units(10)


def test_nulls_and_blanks(tmp_path: Path) -> None:
    table = {
        "jpg": pa.array([None, b"x", b"y", b"z"], pa.binary()),
        "caption": ["a", None, " ", "d"],
    }
    found = records(write_parquet(tmp_path / "p.parquet", table))
    assert reasons(found) == ["missing_image", "missing_caption", "missing_caption", None]


def test_images_alone_have_empty_captions(tmp_path: Path) -> None:
    write_parquet(tmp_path / "p.parquet", {"jpg": columns(2)["jpg"], "label": [3, 5]})
    with pytest.raises(SluiceError, match="no column 'caption'") as error:
        open_source(SourceSettings(parquet=str(tmp_path))).units(10)
    assert "`caption: ''` for images alone" in error.value.way_out
    found = records(SourceSettings(parquet=str(tmp_path), caption=""))
    assert [(record.image, record.caption) for record in found] == [
        (b"image 0", ""),
        (b"image 1", ""),
    ]
    assert [record.meta for record in found] == [{"label": 3}, {"label": 5}]


def test_text_that_is_no_utf8_costs_one_row(tmp_path: Path) -> None:
    offsets = b"".join(number.to_bytes(4, "little") for number in range(4))
    captions = pa.StringArray.from_buffers(3, pa.py_buffer(offsets), pa.py_buffer(b"a\xffc"))
    found = records(write_parquet(tmp_path / "p.parquet", columns(3) | {"caption": captions}))
    assert reasons(found) == [None, "caption_not_utf8", None]
    assert [record.caption for record in found] == ["a", "\ufffd", "c"]


@pytest.mark.parametrize(
    ("group", "rows_per_shard", "expected"),
    [
        (10, 25, [20, 25]),  # runs of whole row groups
        (10, 10, [10, 10, 10, 10, 5]),
        (30, 12, [12, 12, 6, 12, 3]),  # a row group larger than a shard is cut
        (1000, 1000, [45]),
    ],
)
def test_shards_of_a_parquet_file(
    group: int, rows_per_shard: int, expected: list[int], tmp_path: Path
) -> None:
    source = write_parquet(tmp_path / "p.parquet", columns(45), group)
    units = open_source(source).units(rows_per_shard)
    found = [list(unit.records()) for unit in units]
    assert [len(piece) for piece in found] == expected
    captions = [record.caption for piece in found for record in piece]
    assert captions == [f"caption {index}" for index in range(45)]
    assert found[-1][-1].source.endswith("#44")


def test_a_damaged_row_group_keeps_its_count(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "p.parquet", columns(30), 10)
    data = bytearray((tmp_path / "p.parquet").read_bytes())
    second = pq.ParquetFile(tmp_path / "p.parquet").metadata.row_group(1).column(0)
    start = second.dictionary_page_offset or second.data_page_offset
    data[start : start + second.total_compressed_size] = b"\xff" * second.total_compressed_size
    (tmp_path / "p.parquet").write_bytes(data)
    assert reasons(records(source)) == [None] * 10 + ["damaged_row_group"] * 10 + [None] * 10


@pytest.mark.parametrize("data", [b"", b"PAR1", b"not parquet" * 100])
def test_a_file_that_is_no_parquet_is_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(data)
    with pytest.raises(SluiceError, match=r"p\.parquet is no whole Parquet file"):
        open_source(SourceSettings(parquet=str(tmp_path))).units(10)


def test_parquet_without_rows(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "p.parquet", columns(0))
    with pytest.raises(SluiceError, match="have no rows"):
        open_source(source).units(10)


def test_a_file_that_changed_after_it_was_listed(tmp_path: Path) -> None:
    units = open_source(write_parquet(tmp_path / "p.parquet", columns(30), 10)).units(10)
    write_parquet(tmp_path / "p.parquet", columns(10), 10)
    with pytest.raises(SluiceError, match="has changed since the source was listed"):
        list(units[-1].records())
