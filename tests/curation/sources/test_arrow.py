"""Arrow IPC with image bytes: streams and files, and what is damaged."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.settings import SourceSettings
from curation.sources import open_source
from curation.sources.arrow import ArrowGroups
from infra.errors import SluiceError
from tests.curation.sources.made import reasons, records

WRITERS: dict[str, Any] = {"stream": pa.ipc.new_stream, "file": pa.ipc.new_file}


def write(path: Path, count: int, batch: int, kind: str = "stream", **options: Any) -> None:
    table = pa.table(
        {
            "image": [{"bytes": b"image %d" % row, "path": "a.jpg"} for row in range(count)],
            "caption": [f"caption {row}" for row in range(count)],
            "licence": pa.array([f"{row % 3}" for row in range(count)]).dictionary_encode(),
            "raw": [b"x"] * count,
        }
    )
    with WRITERS[kind](path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=batch)


def source(path: Path) -> SourceSettings:
    return SourceSettings(arrow=str(path), image="image")


@pytest.mark.parametrize("kind", list(WRITERS))
@pytest.mark.parametrize("options", [{}, {"compression": "lz4"}, {"use_legacy_format": True}])
def test_streams_and_files(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / "a.arrow", 25, 10, kind, **options)
    found = records(source(tmp_path))
    assert [record.image for record in found] == [b"image %d" % row for row in range(25)]
    assert [record.meta for record in found] == [{"licence": f"{row % 3}"} for row in range(25)]
    assert found[24].source == f"{tmp_path.name}/a.arrow#24"
    assert reasons(found) == [None] * 25


@pytest.mark.parametrize(("rows", "expected"), [(25, [20, 25]), (4, [4, 4, 2] * 4 + [4, 1])])
def test_a_record_batch_is_the_cut(rows: int, expected: list[int], tmp_path: Path) -> None:
    write(tmp_path / "a.arrow", 45, 10)
    units = open_source(source(tmp_path)).units(rows)
    assert [len(list(unit.records())) for unit in units] == expected
    found = [record.caption for unit in units for record in unit.records()]
    assert found == [f"caption {row}" for row in range(45)]


def test_feather(tmp_path: Path) -> None:
    table = pa.table({"image": [b"x"], "caption": ["a"]})
    feather.write_feather(table, tmp_path / "a.feather")
    assert reasons(records(source(tmp_path))) == [None]
    (tmp_path / "a.feather").write_bytes(b"FEA1" + bytes(100))
    with pytest.raises(SluiceError, match="Feather version 1"):
        records(source(tmp_path))


@pytest.mark.parametrize("data", [b"", b"ARROW1\0\0", b"no arrow" * 100, b"\xff" * 16])
def test_a_file_that_is_no_arrow_is_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.arrow").write_bytes(data)
    with pytest.raises(SluiceError, match=r"a\.arrow is no whole Arrow file"):
        records(source(tmp_path))


def test_a_file_that_breaks_off_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.arrow", 25, 10)
    data = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "a.arrow").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(SluiceError, match="no whole Arrow file"):
        records(source(tmp_path))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_bytes_are_refused_or_cost_their_rows(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("arrow")
    write(folder / "a.arrow", 12, 4, data.draw(st.sampled_from(list(WRITERS))))
    content = bytearray((folder / "a.arrow").read_bytes())
    for place, value in data.draw(
        st.lists(
            st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)),
            min_size=1,
            max_size=4,
        )
    ):
        content[place] = value
    (folder / "a.arrow").write_bytes(content)
    try:
        with (folder / "a.arrow").open("rb") as raw:
            count = sum(ArrowGroups(raw, "a.arrow").sizes)
        found = records(source(folder))
    except SluiceError:
        return
    assert len(found) == count
