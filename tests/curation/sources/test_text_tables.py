"""Text tables of URLs: every format gives the same records, and no line is lost."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.settings import SourceSettings
from curation.sources import open_source, text_lines
from curation.sources.text_lines import read_table, split_lines
from curation.sources.text_tables import TextTablesWork, text_tables_items
from infra.errors import SluiceError
from tests.curation.sources.made import reasons, url_records, url_units

ROWS: list[dict[str, Any]] = [
    {
        "uid": "ab" * 16,
        "url": f"https://x.org/{number}.jpg",
        "text": caption,
        "original_width": 640 + number,
        "clip_l14_similarity_score": number / 8,
        "face_bboxes": [[0.0, 0.25, 0.5, 1.0]] if number % 2 else None,
        "LICENSE": "?" if number else None,
    }
    for number, caption in enumerate(["a cat", 'say "hi", twice', "two\nlines", "ünï\U0001f600"])
]


def delimited(rows: list[dict[str, Any]], delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(
        {name: json.dumps(cell) if isinstance(cell, list) else cell for name, cell in row.items()}
        for row in rows
    )
    return text.getvalue().encode()


def encoded(rows: list[dict[str, Any]], kind: str) -> bytes:
    if kind in ("csv", "tsv"):
        return delimited(rows, "," if kind == "csv" else "\t")
    if kind == "parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), buffer)
        return buffer.getvalue()
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


PACK = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data[:50]) + gzip.compress(data[50:]),  # two members
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}


def one(tmp_path: Path, name: str, data: bytes, **fields: str) -> list[Any]:
    folder = tmp_path / "pool"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    settings = SourceSettings.model_validate({"urls": str(folder / name), **fields})
    return url_records(settings, tmp_path / "store")


def test_every_format_and_compression_gives_the_same_records(tmp_path: Path) -> None:
    expected = one(tmp_path, "t.parquet", encoded(ROWS, "parquet"))
    assert [record.caption for record in expected] == [row["text"] for row in ROWS]
    assert reasons(expected) == [None] * len(ROWS)
    assert expected[1].meta["face_bboxes"] == [[0.0, 0.25, 0.5, 1.0]]
    for kind in ("csv", "tsv", "jsonl", "ndjson", "json"):
        for pack, squeeze in PACK.items():
            found = one(tmp_path, f"t.{kind}{pack}", squeeze(encoded(ROWS, kind)))
            assert [record.source for record in found] == [
                f"pool/t.{kind}{pack}#{row}" for row in range(len(ROWS))
            ]
            assert [(r.url, r.caption, r.uid, r.meta, r.reason) for r in found] == [
                (r.url, r.caption, r.uid, r.meta, r.reason) for r in expected
            ]


def test_compression_is_told_by_the_bytes(tmp_path: Path) -> None:
    data = encoded(ROWS, "csv")
    assert len(one(tmp_path, "a.csv", gzip.compress(data))) == len(ROWS)
    assert len(one(tmp_path, "b.csv.gz", data)) == len(ROWS)


@pytest.mark.parametrize("pack", list(PACK))
def test_a_plain_list_has_no_captions(pack: str, tmp_path: Path) -> None:
    data = PACK[pack](b"\xef\xbb\xbfhttps://x.org/a.jpg\r\n\nftp://y\n\xff\n https://x.org/b.jpg ")
    found = one(tmp_path, f"list.txt{pack}", data)
    assert reasons(found) == [None, "missing_url", "bad_url", "bad_line", None]
    assert [record.caption for record in found] == ["", "", "", None, ""]
    assert found[4].url == "https://x.org/b.jpg"
    assert found[4].source == f"pool/list.txt{pack}#4"
    with pytest.raises(SluiceError, match="no column 'words' for the caption"):
        one(tmp_path, "list.txt", b"https://x.org\n", caption="words")


def test_bad_lines_of_csv_cost_only_themselves(tmp_path: Path) -> None:
    lines = [
        b"url,caption",
        b"https://x.org/0,a",
        b"https://x.org/1",  # too few
        b"https://x.org/2,a,b",  # too many
        b"https://x.org/3,\xff",
        b"",  # no row
        b'https://x.org/4,"not closed',
        b'https://x.org/5,"two',
        b'lines"',
        b'https://x.org/6,"closed" too early',
        b'https://x.org/7,5" wide',
        b'"https://x.org/8","""quoted"""',
        b'https://x.org/9,"to the end',
    ]
    found = one(tmp_path, "t.csv", b"\r\n".join(lines))
    assert [(record.url, record.caption) for record in found if not record.reason] == [
        ("https://x.org/0", "a"),
        ("https://x.org/5", "two\nlines"),
        ("https://x.org/7", '5" wide'),
        ("https://x.org/8", '"quoted"'),
    ]
    assert reasons(found).count("bad_line") == 6
    assert [record.meta["line"] for record in found if record.reason] == [
        "https://x.org/1",
        "https://x.org/2,a,b",
        "https://x.org/3,\ufffd",
        'https://x.org/4,"not closed',
        'https://x.org/6,"closed" too early',
        'https://x.org/9,"to the end',
    ]
    assert [record.source for record in found] == [f"pool/t.csv#{row}" for row in range(10)]


def test_quotes_in_tsv_may_be_meant_as_they_stand(tmp_path: Path) -> None:
    lines = [
        b"caption\turl",
        b'"hello" he said\thttps://x.org/0',
        b'"a\tb"\thttps://x.org/1',
        b'"open\thttps://x.org/2',
    ]
    found = one(tmp_path, "t.tsv", b"\n".join(lines))
    assert [record.caption for record in found] == ['"hello" he said', "a\tb", '"open']
    assert reasons(found) == [None] * 3


def test_bad_lines_of_json_cost_only_themselves(tmp_path: Path) -> None:
    lines = [
        b'{"url": "https://x.org/0", "caption": "a", "n": NaN, "big": 123456789012345678901234}',
        b"[1]",
        b"{",
        b"\xff",
        b"",
        b'{"url": ["https://x.org/1"], "caption": "a"}',
        b'{"caption": "a"}',
        b'{"url": "https://x.org/2", "caption": 5}',
        b"[" * 100_000,
        b'{"url": "https://x.org/3", "caption": "\\ud800"}',
    ]
    found = one(tmp_path, "t.jsonl", b"\n".join(lines))
    assert reasons(found) == [
        None,
        *["bad_line"] * 3,
        "bad_url",
        "missing_url",
        "missing_caption",
        "bad_line",
        None,
    ]
    assert found[0].meta == {"n": None, "big": 123456789012345678901234}
    assert found[-1].caption == "?"


def test_a_json_table_that_begins_badly(tmp_path: Path) -> None:
    data = b"{\n" * 200 + b'{"link": "https://x.org", "caption": "a"}\n'
    assert reasons(one(tmp_path, "t.jsonl", data, url="link")) == ["bad_line"] * 200 + [None]


def test_numbers_of_csv_are_those_of_known_columns(tmp_path: Path) -> None:
    data = b"URL,TEXT,WIDTH,similarity,zip\nhttps://x.org,a,0640,1e-3,0640\nhttps://x.org,a,,x,\n"
    found = one(tmp_path, "t.csv", data)
    assert found[0].meta == {"WIDTH": 640, "similarity": 0.001, "zip": "0640"}
    assert found[1].meta == {"WIDTH": None, "similarity": "x", "zip": None}


def test_a_table_of_one_column_may_have_empty_lines(tmp_path: Path) -> None:
    assert reasons(one(tmp_path, "t.csv", b"url\nhttps://x.org\n\n")) == [None, "missing_url"]


def test_columns_may_be_named(tmp_path: Path) -> None:
    data = b"a,b,c\nhttps://x.org,words," + b"0" * 32 + b"\n"
    [record] = one(tmp_path, "t.csv", data, url="a", caption="b", expected="c")
    assert (record.url, record.caption, record.expected) == ("https://x.org", "words", "0" * 32)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.csv", b"https://x.org/0,a cat\nhttps://x.org/1,a dog\n", "no column 'url' for the url"),
        ("t.csv", b"url,url\n", "two columns named 'url'"),
        ("t.csv", b"\xff,url\n", "first line of .* is no header"),
        ("t.csv", b"PAR1....", "is Parquet by its content"),
        ("t.tsv", "url\tcaption\n".encode("utf-16"), "is UTF-16"),
        ("t.json", b'[{"url": "https://x.org"}]', "one JSON array"),
        ("t.csv.gz", gzip.compress(encoded(ROWS, "csv"))[:-12], r"t\.csv\.gz is damaged"),
        ("t.csv.zst", PACK[".zst"](encoded(ROWS, "csv"))[:-12], r"t\.csv\.zst is damaged"),
        ("t.csv.gz", gzip.compress(encoded(ROWS, "csv")) + b"waste", r"t\.csv\.gz is damaged"),
        ("t.csv", b"", "have no rows"),
        ("t.xls", b"url", "no table of URLs by its name"),
    ],
)
def test_a_file_that_is_no_table_is_named(
    name: str, data: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(SluiceError, match=message) as error:
        one(tmp_path, name, data)
    assert error.value.way_out


def test_tables_of_several_formats_are_no_one_source(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(encoded(ROWS, "csv"))
    (tmp_path / "README.txt").write_text("about a.csv")
    with pytest.raises(SluiceError, match="several formats: 1 txt, 1 csv"):
        open_source(SourceSettings(urls=str(tmp_path))).units(10)


def test_shards_span_text_files(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    for index, count in enumerate([5, 0, 9, 3]):
        lines = [f"https://x.org/{index}/{row},c\n" for row in range(count)]
        (pool / f"{index}.csv").write_text("url,caption\n" + "".join(lines))
    (pool / "4.csv").write_bytes(b"")
    units = url_units(SourceSettings(urls=str(pool)), tmp_path / "store", 4)
    found = [list(unit.records()) for unit in units]
    assert [len(piece) for piece in found] == [4, 4, 4, 4, 1]
    assert [record.source for record in found[1]] == [
        "pool/0.csv#4",
        *(f"pool/2.csv#{row}" for row in range(3)),
    ]


def test_the_same_text_gives_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(encoded(ROWS * 3000, "csv"))
    [item] = text_tables_items(SourceSettings(urls=str(tmp_path)))
    parts = [TextTablesWork(str(tmp_path / name))(item.value, [""])[""] for name in "ab"]
    assert parts[0] == parts[1]
    assert parts[0].rows == 12000
    metadata = pq.read_metadata(tmp_path / "a/00000.parquet")
    assert [metadata.row_group(group).num_rows for group in range(3)] == [4096, 4096, 3808]


def test_a_long_line_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "LINE_LIMIT", 100)
    monkeypatch.setattr(text_lines, "BLOCK", 7)
    long, short = b"https://x.org/" + b"a" * 200, b"https://x.org/" + b"a" * 86
    assert reasons(one(tmp_path, "t.txt", b"\n".join([long, short, long]))) == [
        "bad_line",
        None,
        "bad_line",
    ]
    quoted = b'https://x.org,"' + b"a\n" * 60 + b'"'
    lines = [b"url,caption", long + b",a", quoted, b"https://x.org,b"]
    found = one(tmp_path, "t.csv", b"\n".join(lines))
    assert (found[-1].url, found[-1].caption) == ("https://x.org", "b")
    assert set(reasons(found[:-1])) == {"bad_line"}
    assert list(split_lines(iter([b"a" * 60, b"b" * 60, b"\nc"]))) == [
        b"a" * 60 + b"b" * 41,
        b"c",
    ]


CELLS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["https://x.org/a", 'a"', '"', "a\nb", ",", "\t", "", " ", "\r", "\x00"]),
)
TABLE = st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=20)


@settings(deadline=None, max_examples=40)
@given(TABLE, st.sampled_from([",", "\t"]), st.integers(1, 30))
def test_whatever_a_writer_writes_is_read_row_by_row(
    rows: list[tuple[str, str, str]], delimiter: str, block: int
) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(
        [("url", "caption", "other"), *rows]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_lines, "BLOCK", block)
        data = io.BytesIO(text.getvalue().encode())
        columns, found = read_table(data, "t", "csv" if delimiter == "," else "tsv")
        got = [tuple(row.values()) if isinstance(row, dict) else row for row in found]
    assert columns == ["url", "caption", "other"]
    assert got == [tuple(cell.replace("\r\n", "\n") for cell in row) for row in rows]


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200), st.sampled_from(["csv", "tsv", "jsonl", "txt"]))
def test_any_bytes_give_rows_that_are_counted(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, kind: str
) -> None:
    tmp_path = tmp_path_factory.mktemp("any")
    header = {"csv": b"url,caption\n", "tsv": b"url\tcaption\n"}.get(kind, b"https://x.org\n")
    (tmp_path / f"t.{kind}").write_bytes(header + data)
    [item] = text_tables_items(SourceSettings(urls=str(tmp_path)))
    part = TextTablesWork(str(tmp_path / "out"))(item.value, [""])[""]
    table = pq.read_table(tmp_path / "out/00000.parquet")
    assert table.num_rows == part.rows
    lines = [line for line in data.split(b"\n") if line.strip(b"\r")]
    if (kind in ("csv", "tsv") and b'"' not in data) or kind == "jsonl":
        least = [line for line in lines if line.strip()] if kind == "jsonl" else lines
        assert part.rows == len(least) + (kind == "jsonl")


ROW = st.tuples(
    st.one_of(st.none(), st.text(max_size=5), st.just("https://x.org/ä")),
    st.one_of(st.none(), st.text(max_size=5)),
    st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=5)),
)


@settings(deadline=None, max_examples=15)
@given(st.lists(ROW, min_size=1, max_size=30), st.integers(1, 9))
def test_every_row_of_json_is_one_record(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], shard: int
) -> None:
    tmp_path = tmp_path_factory.mktemp("json")
    names = ("url", "caption", "other")
    lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    source = SourceSettings(urls=str(tmp_path / "t.jsonl"))
    units = url_units(source, tmp_path / "store", shard)
    found = [record for unit in units for record in unit.records()]
    assert len(found) == len(rows)
    for record, (url, caption, _) in zip(found, rows, strict=True):
        assert record.url == ((url or "").strip() or None)
        assert record.caption == ((caption or "").strip() or None)
