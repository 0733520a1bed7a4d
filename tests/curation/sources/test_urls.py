"""Tables of URLs in Parquet: what rows yield, where shards are cut, what planning refuses."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.settings import SourceSettings
from curation.sources import Record, open_source
from curation.sources.urls import is_web_url
from infra.errors import SluiceError
from tests.curation.sources.made import reasons, records


def urls(count: int, start: int = 0) -> dict[str, Any]:
    numbers = range(start, start + count)
    return {
        "url": [f"https://x.org/{number}.jpg" for number in numbers],
        "text": [f"caption {number}" for number in numbers],
    }


def write(path: Path, columns: dict[str, Any], group: int = 1000) -> SourceSettings:
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return SourceSettings(urls=str(path))


def test_rows_of_laion(tmp_path: Path) -> None:
    columns = {
        "SAMPLE_ID": [7],
        "URL": [" http://x.org/a b.jpg "],
        "TEXT": [" a cat\n"],
        "WIDTH": pa.array([640], pa.int32()),
        "HEIGHT": [480.0],
        "NSFW": ["UNLIKELY"],
        "similarity": pa.array([0.5], pa.float32()),
        "hash": [-5],
        "LANGUAGE": pa.array(["en"]).dictionary_encode(),
        "thumbnail": pa.array([b"x"], pa.binary()),
    }
    assert records(write(tmp_path / "part.parquet", columns)) == [
        Record(
            f"{tmp_path.name}/part.parquet#0",
            caption="a cat",
            url="http://x.org/a b.jpg",
            meta={
                "SAMPLE_ID": 7,
                "WIDTH": 640,
                "HEIGHT": 480.0,
                "NSFW": "UNLIKELY",
                "similarity": 0.5,
                "hash": -5,
                "LANGUAGE": "en",
            },
        )
    ]


def test_rows_of_datacomp(tmp_path: Path) -> None:
    columns = urls(1) | {
        "uid": ["ab" * 16],
        "original_width": [640],
        "clip_b32_similarity_score": [0.25],
        "face_bboxes": [[[0.0, 0.5, 1.0, 0.75]]],
        "sha256": ["0" * 64],
    }
    [record] = records(write(tmp_path / "p.parquet", columns))
    assert (record.uid, record.expected) == ("ab" * 16, None)
    assert record.meta == {
        "original_width": 640,
        "clip_b32_similarity_score": 0.25,
        "face_bboxes": [[0.0, 0.5, 1.0, 0.75]],
        "sha256": "0" * 64,
    }


def test_rows_of_img2dataset_with_those_that_failed(tmp_path: Path) -> None:
    columns = urls(2) | {"key": ["0", "1"], "status": ["success", "failed_to_download"]}
    columns["caption"] = columns.pop("text")
    write(tmp_path / "00000.parquet", columns)
    (tmp_path / "00000.tar").write_bytes(b"")
    (tmp_path / "00000_stats.json").write_text("{}")
    found = records(SourceSettings(urls=str(tmp_path)))
    assert reasons(found) == [None, None]
    assert found[1].meta == {"key": "1", "status": "failed_to_download"}


def test_a_hash_is_a_promise_only_where_the_recipe_says_so(tmp_path: Path) -> None:
    hashes = ["A" * 32, "b" * 64, None, "nonsense"]
    source = write(tmp_path / "p.parquet", urls(4) | {"md5": hashes})
    found = records(source.model_copy(update={"expected": "md5"}))
    assert [record.expected for record in found] == ["a" * 32, "b" * 64, None, "nonsense"]
    assert reasons(found) == [None, None, None, "hash_mismatch"]
    assert found[0].meta == {}


def test_rows_that_cannot_be_fetched(tmp_path: Path) -> None:
    columns = {
        "url": [None, " ", "ftp://x.org/a", "https://", "http://x.org:99999/", "https://x.org"],
        "text": ["a", "b", "c", "d", "e", None],
    }
    assert reasons(records(write(tmp_path / "p.parquet", columns))) == [
        *["missing_url"] * 2,
        *["bad_url"] * 3,
        "missing_caption",
    ]


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("http://x.org/a.jpg", True),
        ("HTTPS://X.ORG", True),
        ("https://user:p@x.org:8080/?q=a b#c", True),
        ("http://[2001:db8::1]/a", True),
        ("https://bücher.example/ü.jpg", True),
        ("//x.org/a.jpg", False),
        ("x.org/a.jpg", False),
        ("http:///a.jpg", False),
        ("http://x org/a.jpg", False),
        ("http://[::1/a.jpg", False),
        ("http://x.org:port/", False),
        ("http://x.org/\x00", False),
        ("http://x.org/\n", False),
        ("data:image/png;base64,AAAA", False),
        ("file:///etc/passwd", False),
    ],
)
def test_what_is_a_web_url(url: str, good: bool) -> None:
    assert is_web_url(url) == good


def test_text_that_is_no_utf8_costs_one_row(tmp_path: Path) -> None:
    bad = pa.StringArray.from_buffers(
        2,
        pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 1, 2))),
        pa.py_buffer(b"a\xff"),
    )
    source = write(tmp_path / "p.parquet", urls(2) | {"text": bad})
    assert reasons(records(source)) == [None, "caption_not_utf8"]
    old = {name: pa.array(cells, pa.string()).cast(pa.binary()) for name, cells in urls(2).items()}
    assert records(write(tmp_path / "p.parquet", old))[1].caption == "caption 1"


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(any),
    st.integers(1, 30),
    st.integers(1, 25),
)
def test_shards_are_equal_whatever_the_files_and_row_groups(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], group: int, rows: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    start = 0
    for index, size in enumerate(sizes):
        write(folder / f"{index}.parquet", urls(size, start), group)
        start += size
    units = open_source(SourceSettings(urls=str(folder))).units(rows)
    found = [list(unit.records()) for unit in units]
    total = sum(sizes)
    assert [len(piece) for piece in found] == [rows] * (total // rows) + [total % rows] * (
        total % rows > 0
    )
    flat = [record for piece in found for record in piece]
    assert [record.caption for record in flat] == [f"caption {number}" for number in range(total)]
    labels = [f"{index}.parquet#{row}" for index, size in enumerate(sizes) for row in range(size)]
    assert [record.source.split("/", 1)[1] for record in flat] == labels


def test_types_may_differ_between_files(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", urls(1) | {"WIDTH": pa.array([1], pa.int32())})
    write(tmp_path / "1.parquet", urls(1) | {"WIDTH": [2.0], "text": pa.nulls(1)})
    write(tmp_path / "2.parquet", urls(1) | {"WIDTH": ["3"], "text": pa.array(["a"], "large_utf8")})
    found = records(SourceSettings(urls=str(tmp_path)))
    assert [record.meta["WIDTH"] for record in found] == [1, 2.0, "3"]
    assert reasons(found) == [None, "missing_caption", None]


def test_a_column_that_is_text_in_one_file_alone_names_both(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", urls(1))
    write(tmp_path / "1.parquet", urls(1) | {"text": [["a", "b"]]})
    with pytest.raises(SluiceError, match=r"1\.parquet: the caption column holds list") as error:
        records(SourceSettings(urls=str(tmp_path)))
    assert "0.parquet it is text" in error.value.what


@pytest.mark.parametrize(
    ("names", "role", "hint"),
    [
        (["image_link", "text"], "url", "near: image_link"),
        (["url", "captions"], "caption", "near: captions"),
    ],
)
def test_a_missing_column_is_named_with_near_ones(
    names: Sequence[str], role: str, hint: str, tmp_path: Path
) -> None:
    source = write(tmp_path / "p.parquet", {name: ["a"] for name in names})
    with pytest.raises(SluiceError, match=f"p.parquet has no column '{role}' for the") as error:
        records(source)
    assert hint in error.value.what
    assert f"`{role}: COLUMN`" in error.value.way_out


def test_columns_by_name(tmp_path: Path) -> None:
    columns = urls(1) | {"Alt": ["b"], "link": ["https://y.org"]}
    [record] = records(write(tmp_path / "p.parquet", columns))
    assert (record.url, record.caption) == ("https://x.org/0.jpg", "caption 0")
    settings = SourceSettings(urls=str(tmp_path / "p.parquet"), url="link", caption="Alt")
    [record] = records(settings)
    assert (record.url, record.caption) == ("https://y.org", "b")
    assert record.meta == {"url": "https://x.org/0.jpg", "text": "caption 0"}


def test_a_table_without_captions(tmp_path: Path) -> None:
    only = {"URL": ["https://x.org"], "width": [5]}
    [record] = records(write(tmp_path / "p.parquet", only))
    assert (record.caption, record.reason) == ("", None)
    source = write(tmp_path / "p.parquet", only | {"licence": ["?"]})
    with pytest.raises(SluiceError, match="no column 'caption'"):
        records(source)
    [record] = records(source.model_copy(update={"caption": ""}))
    assert (record.caption, record.reason) == ("", None)


def test_captions_in_some_files_alone_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", {"url": ["https://x.org"]})
    write(tmp_path / "1.parquet", urls(1))
    with pytest.raises(SluiceError, match=r"1\.parquet has captions, .*0\.parquet has none"):
        records(SourceSettings(urls=str(tmp_path)))


def test_a_damaged_row_group_keeps_its_count_however_it_is_cut(tmp_path: Path) -> None:
    source = write(tmp_path / "p.parquet", urls(30), 10)
    data = bytearray((tmp_path / "p.parquet").read_bytes())
    second = pq.ParquetFile(tmp_path / "p.parquet").metadata.row_group(1).column(0)
    start = second.dictionary_page_offset or second.data_page_offset
    data[start : start + second.total_compressed_size] = b"\xff" * second.total_compressed_size
    (tmp_path / "p.parquet").write_bytes(data)
    expected = [None] * 10 + ["damaged_row_group"] * 10 + [None] * 10
    for rows in (4, 15, 100):
        found = records(source, rows)
        assert reasons(found) == expected
        assert [record.source.split("#")[1] for record in found] == [str(row) for row in range(30)]


@pytest.mark.parametrize("data", [b"", b"PAR1", b"not parquet" * 100])
def test_a_file_that_is_no_parquet_is_named(data: bytes, tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", urls(1))
    (tmp_path / "1.parquet").write_bytes(data)
    with pytest.raises(SluiceError, match=r"1\.parquet is no whole Parquet file") as error:
        records(SourceSettings(urls=str(tmp_path)))
    assert "take it out of the source" in error.value.way_out


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_bytes_are_refused_or_cost_their_rows(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("flips")
    source = write(folder / "p.parquet", urls(12), 5)
    content = bytearray((folder / "p.parquet").read_bytes())
    for place, value in flips:
        content[place % len(content)] = value
    (folder / "p.parquet").write_bytes(content)
    try:
        found = records(source, 5)
    except SluiceError:
        return
    assert len(found) == pq.read_metadata(folder / "p.parquet").num_rows


@pytest.mark.parametrize("count", [29, 31, 30])
def test_a_file_that_changed_after_it_was_listed(count: int, tmp_path: Path) -> None:
    units = open_source(write(tmp_path / "p.parquet", urls(30), 10)).units(10)
    write(tmp_path / "p.parquet", urls(count, start=10**6), 10)
    with pytest.raises(SluiceError, match="has changed since the source was listed"):
        list(units[0].records())


def test_any_fsspec_url(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    write(tmp_path / "p.parquet", urls(5))
    for index in range(12):
        fs.pipe_file(f"/tables/pool/{index}.parquet", (tmp_path / "p.parquet").read_bytes())
    for location in ("memory://tables/pool", "memory://tables/pool/{0..11}.parquet"):
        found = records(SourceSettings(urls=location), 7)
        assert len(found) == 60
        assert found[0].source == "pool/0.parquet#0"


def test_a_file_missing_from_a_pattern_is_named(tmp_path: Path) -> None:
    for index in range(20):
        write(tmp_path / f"{index}.parquet", urls(1))
    with pytest.raises(SluiceError, match=r"no file at .*/20\.parquet"):
        records(SourceSettings(urls=f"{tmp_path}/{{0..20}}.parquet"))


def test_dates_out_of_range_and_deep_types_ride_along(tmp_path: Path) -> None:
    columns = urls(2) | {
        "seen": pa.array([10**15, 0], pa.timestamp("ms")),
        "tags": [{"a": [1, None]}, None],
    }
    found = records(write(tmp_path / "p.parquet", columns))
    assert [record.meta["seen"] is None for record in found] == [True, False]
    assert found[0].meta["tags"] == {"a": [1, None]}


PEAK = """
import json, resource, sys
from curation.settings import SourceSettings
from curation.sources import open_source
import pyarrow.parquet
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
units = open_source(SourceSettings(urls=sys.argv[1])).units(1000)
first, last = list(units[0].records()), list(units[-1].records())
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([len(units), len(first), last[-1].url, (after - before) / 1024]))
"""


def big_table(path: Path, rows: int, group: int) -> None:
    """Written group by group; the strings by Arrow, as Python would take minutes."""
    schema = pa.schema([("URL", "string"), ("TEXT", "string"), ("WIDTH", "int32")])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, group):
            numbers = pa.array(range(start, min(start + group, rows)), pa.int64())
            text = numbers.cast(pa.string())
            columns = [
                pc.binary_join_element_wise("https://x.org/images", text, "/"),
                pc.binary_join_element_wise("a caption of some length for a picture", text, " "),
                pc.bit_wise_and(numbers, 1023).cast(pa.int32()),
            ]
            writer.write_table(pa.table(columns, schema), row_group_size=group)


def test_memory_does_not_depend_on_the_row_groups(tmp_path: Path) -> None:
    big_table(tmp_path / "big.parquet", 2_000_000, 1_000_000)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "big.parquet")]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    units, first, last, megabytes = json.loads(done.stdout)
    assert (units, first, last) == (2000, 1000, "https://x.org/images/1999999")
    assert megabytes < 100
