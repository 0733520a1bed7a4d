"""DataComp's subset files: which rows they let through, how often, and what is no such file."""

import uuid
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.settings import SourceSettings
from curation.sources import Record, describe, open_source, records_of
from curation.sources.subset import PAIRS, open_subset, subset_digest
from infra.errors import SluiceError


def uid(number: int) -> str:
    # Both halves count, and halves above 2**63 are no negative numbers.
    return f"{number % 3 * (2**64 // 3):016x}{number * 2**57 % 2**64:016x}"


def pairs(uids: list[str]) -> np.ndarray:
    return np.sort(np.array([(int(u[:16], 16), int(u[16:], 16)) for u in uids], PAIRS))


def table(path: Path, uids: list[str | None]) -> None:
    columns = {
        "uid": pa.array(uids, pa.string()),
        "url": [f"https://x.org/{row}" for row in range(len(uids))],
        "text": ["a"] * len(uids),
    }
    pq.write_table(pa.table(columns), path, row_group_size=7)


def read(source: SourceSettings, rows: int = 10) -> tuple[list[Record], Counter[str]]:
    tally: Counter[str] = Counter()
    units = open_source(source).units(rows)
    return [record for unit in units for record in records_of(unit, tally)], tally


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=40),
    st.lists(st.integers(0, 60), max_size=60),
    st.booleans(),
)
def test_a_subset_is_a_bag_of_uids(
    tmp_path_factory: pytest.TempPathFactory, rows: list[int], taken: list[int], raw: bool
) -> None:
    folder = tmp_path_factory.mktemp("subset")
    table(folder / "t.parquet", [uid(row) for row in rows])
    subset = pairs([uid(number) for number in taken])
    if raw:
        subset.tofile(folder / "s.npy")
    else:
        np.save(folder / "s.npy", subset)
    source = SourceSettings(urls=str(folder / "t.parquet"), subset=str(folder / "s.npy"))
    found, tally = read(source)
    often = Counter(uid(number) for number in taken)
    expected = [
        f"https://x.org/{index}" for index, row in enumerate(rows) for _ in range(often[uid(row)])
    ]
    assert [record.url for record in found] == expected
    assert tally["read"] == len(rows)
    assert tally["outside_subset"] == sum(uid(row) not in often for row in rows)


def test_rows_without_a_uid_are_outside_and_those_unreadable_stay(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    table(tmp_path / "t/0.parquet", [uid(1), None, "no uid", uid(1).upper()])
    table(tmp_path / "t/1.parquet", [uid(1)] * 3)
    data = bytearray((tmp_path / "t/1.parquet").read_bytes())
    column = pq.ParquetFile(tmp_path / "t/1.parquet").metadata.row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    (tmp_path / "t/1.parquet").write_bytes(data)
    np.save(tmp_path / "s.npy", pairs([uid(1)] * 2))
    source = SourceSettings(urls=str(tmp_path / "t"), subset=str(tmp_path / "s.npy"))
    found, tally = read(source)
    assert [record.reason for record in found] == [None] * 4 + ["damaged_row_group"] * 3
    assert found[0] == found[1]
    assert tally == {"read": 7, "outside_subset": 2}


def test_parquet_with_images_and_tables_without_uids(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", pairs([uid(2)]))
    subset = str(tmp_path / "s.npy")
    columns = {"jpg": pa.array([b"x", b"y"], pa.binary()), "caption": ["a", "b"]}
    pq.write_table(pa.table(columns | {"uid": [uid(1), uid(2)]}), tmp_path / "i.parquet")
    found, _ = read(SourceSettings(parquet=str(tmp_path / "i.parquet"), subset=subset))
    assert [record.image for record in found] == [b"y"]
    pq.write_table(pa.table(columns), tmp_path / "i.parquet")
    for kind in ("parquet", "urls"):
        if kind == "urls":
            pq.write_table(pa.table({"url": ["u"], "text": ["a"]}), tmp_path / "i.parquet")
        with pytest.raises(SluiceError, match="no column 'uid' for the uid"):
            path = str(tmp_path / "i.parquet")
            read(SourceSettings.model_validate({kind: path, "subset": subset}))


def test_a_remote_subset_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    np.save(tmp_path / "s.npy", pairs([uid(3)]))
    url = f"memory://{uuid.uuid4().hex}/s.npy"
    fsspec.filesystem("memory").pipe_file(url, (tmp_path / "s.npy").read_bytes())
    table(tmp_path / "t.parquet", [uid(number) for number in range(30)])
    source = SourceSettings(urls=str(tmp_path / "t.parquet"), subset=url)
    for _ in range(2):
        assert [record.uid for record in read(source)[0]] == [uid(3)]
    assert len(list((tmp_path / "tmp").glob("*/*"))) == 1
    assert describe(source)["subset"] == subset_digest(str(tmp_path / "s.npy"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([(2, 0), (1, 0)], PAIRS), "not sorted at entry 1"),
        (np.array([(1, 5), (1, 6), (1, 4)], PAIRS), "not sorted at entry 2"),
        (np.array([[1, 2]], np.uint64), "holds uint64"),
        (np.array(["a" * 32]), "holds <U32"),
        (b"0123456789", "no multiple of 16 bytes"),
        (b"\x93NUMPY broken", "is no subset file"),
    ],
)
def test_what_is_no_subset_file_is_named(
    content: np.ndarray | bytes, message: str, tmp_path: Path
) -> None:
    if isinstance(content, bytes):
        (tmp_path / "s.npy").write_bytes(content)
    else:
        np.save(tmp_path / "s.npy", content)
    with pytest.raises(SluiceError, match=message) as error:
        open_subset(str(tmp_path / "s.npy"))
    assert "s.npy" in error.value.what


def test_order_is_checked_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curation.sources.subset.CHECKED", 4)
    for place in range(1, 12):
        subset = np.array([(number, 0) for number in range(12)], PAIRS)
        subset["f0"][[place - 1, place]] = place, place - 1
        np.save(tmp_path / "s.npy", subset)
        with pytest.raises(SluiceError, match=rf"not sorted at entry {place}\n"):
            open_subset(str(tmp_path / "s.npy"))


def test_a_missing_or_changed_subset_is_named(tmp_path: Path) -> None:
    table(tmp_path / "t.parquet", [uid(1)])
    path = tmp_path / "s.npy"
    source = SourceSettings(urls=str(tmp_path / "t.parquet"), subset=str(path))
    with pytest.raises(SluiceError, match=r"cannot read .*s\.npy"):
        read(source)
    np.save(path, pairs([uid(1)]))
    [unit] = open_source(source).units(10)
    np.save(path, pairs([uid(1), uid(2)]))
    with pytest.raises(SluiceError, match="has changed"):
        list(unit.records())
