"""img2dataset's own files beside its tars: what it could not fetch is not forgotten."""

import gzip
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import outcomes
from curation.fingerprint import source_fingerprint
from curation.settings import SourceSettings
from curation.sources import Record, open_source
from curation.sources.img2dataset import outcome
from infra.errors import SluiceError
from tests.curation.sources.made import reasons, records, samples, tar_bytes

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("caption", "url", "key", "status", "error_message")),
        *((name, pa.int32()) for name in ("width", "height", "original_width", "original_height")),
        ("exif", pa.string()),
        ("sha256", pa.string()),
        ("similarity", pa.float64()),
    ]
)


def row(key: str, status: str = "success", error: str | None = None) -> dict[str, Any]:
    return {
        "caption": f"caption {key}",
        "url": f"https://x.org/{key}.jpg",
        "key": key,
        "status": status,
        "error_message": error,
        "similarity": 0.25,
    }


def folder(path: Path, rows: list[dict[str, Any]], name: str = "00000") -> SourceSettings:
    """Two samples in a tar, and a Parquet file with `rows` beside it."""
    path.mkdir(exist_ok=True)
    (path / f"{name}.tar").write_bytes(tar_bytes(samples(2)))
    table = pa.Table.from_pylist(rows, SCHEMA)
    pq.write_table(table, path / f"{name}.parquet", row_group_size=2)
    (path / f"{name}_stats.json").write_text("{}")
    return SourceSettings(tars=str(path))


def test_what_failed_there_is_a_refused_row_here(tmp_path: Path) -> None:
    rows = [
        row("0001"),
        row("0002", "failed_to_download", "HTTP Error 404: Not Found"),
        row("0000"),
        row("0003", "failed_to_resize", "image too small"),
    ]
    found = records(folder(tmp_path / "in", rows))
    assert reasons(found) == [None, None, "http_404", "too_small"]
    assert found[2] == Record(
        "in/00000.parquet#0002",
        caption="caption 0002",
        url="https://x.org/0002.jpg",
        meta={
            "status": "failed_to_download",
            "error_message": "HTTP Error 404: Not Found",
            **dict.fromkeys(("width", "height", "original_width", "original_height")),
            **dict.fromkeys(("exif", "sha256")),
            "similarity": 0.25,
        },
        reason="http_404",
        http_status=404,
        key="0002",
    )


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("HTTP Error 404: Not Found", "http_404"),
        ("HTTP Error 410: Gone", "http_410"),
        ("HTTP Error 403: Forbidden", "http_401_403"),
        ("HTTP Error 429: Too Many Requests", "http_429"),
        ("HTTP Error 503: Service Unavailable", "http_5xx"),
        ("HTTP Error 302: The HTTP server returned a redirect error that would lead to an "
         "infinite loop.", "redirect_refused"),
        ("<urlopen error [Errno -2] Name or service not known>", "dns"),
        ("<urlopen error [Errno -3] Temporary failure in name resolution>", "dns"),
        ("<urlopen error timed out>", "timeout"),
        ("The read operation timed out", "timeout"),
        ("<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed>", "tls"),
        ("<urlopen error [Errno 111] Connection refused>", "connect"),
        ("[Errno 104] Connection reset by peer", "connect"),
        ("Remote end closed connection without response", "connect"),
        ("IncompleteRead(10 bytes read, 90 more expected)", "truncated"),
        ("unknown url type: 'x'", "bad_url"),
        ("Use of image disallowed by X-Robots-Tag directive", "disallowed_by_header"),
        ("hash mismatch", "hash_mismatch"),
        ("Image decoding error", "decode_failed"),
        ("image area too large", "too_many_pixels"),
        ("aspect ratio too large", "extreme_aspect"),
        ("OpenCV(4.11.0) error", "failed_before"),
        ("", "failed_before"),
        (None, "failed_before"),
        (7, "failed_before"),
    ],
)  # fmt: skip
def test_messages_have_a_class(message: Any, expected: str) -> None:
    assert outcome(message)[0] == expected
    assert expected in vars(outcomes).values()


def test_other_parquet_files_beside_a_tar_say_nothing(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", [])
    pq.write_table(pa.table({"url": ["x"], "key": ["1"]}), tmp_path / "in/00000.parquet")
    pq.write_table(pa.table({"status": ["x"]}), tmp_path / "in/99999.parquet")
    assert reasons(records(source)) == [None, None]


def test_a_compressed_tar_has_them_too(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", [row("0002", "failed_to_download", "timed out")])
    tar = tmp_path / "in/00000.tar"
    (tmp_path / "in/00000.tar.gz").write_bytes(gzip.compress(tar.read_bytes()))
    tar.unlink()
    assert reasons(records(source)) == [None, None, "timeout"]


def test_a_damaged_one_is_named_or_costs_a_row(tmp_path: Path) -> None:
    rows = [row(f"{number}", "failed_to_download", "timed out") for number in range(4)]
    source = folder(tmp_path / "in", rows)
    path = tmp_path / "in/00000.parquet"
    whole = path.read_bytes()
    group = pq.read_metadata(path).row_group(1)
    start = group.column(0).dictionary_page_offset
    path.write_bytes(whole[:start] + b"\xff" * 40 + whole[start + 40 :])
    assert reasons(records(source)) == [None, None, "timeout", "timeout", "damaged_row_group"]
    path.write_bytes(whole[:-9])
    with pytest.raises(SluiceError, match=r"00000\.parquet is no whole Parquet"):
        records(source)


def test_they_are_part_of_what_a_version_is_made_from(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", [row("0002", "failed_to_download", "timed out")])
    before = source_fingerprint([source])
    folder(tmp_path / "in", [row("0002", "failed_to_download", "HTTP Error 404: Not Found")])
    assert source_fingerprint([source]) != before
    assert [Path(file).name for file in open_source(source).files()] == [
        "00000.parquet", "00000.tar",
    ]  # fmt: skip
    [unit] = open_source(source).units(100)
    assert list(pickle.loads(pickle.dumps(unit)).records()) == list(unit.records())
