import csv
import gzip
import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from curation.fetch.blocklist_settings import BlocklistSettings
from curation.fetch.blocklists import KINDS, Blocklists, blocked_row
from curation.fetch.urls import parse
from curation.perceptual import phash
from infra.dataset import ROWS
from infra.errors import SluiceError


def lists(folder: Path, distance: int = 4, **texts: str) -> Blocklists:
    """Loaded from one text file for each list."""
    given = {}
    for name, text in texts.items():
        path = folder / f"{name}.txt"
        path.write_text(text, encoding="utf-8")
        given[name] = str(path)
    return Blocklists.load(BlocklistSettings(phash_distance=distance, **given))  # type: ignore[arg-type]


def test_no_lists_list_nothing() -> None:
    none = Blocklists.load(BlocklistSettings())
    assert not none.lists_url("http://example.com/")
    assert not none.lists_bytes(b"x")
    assert not none.lists_phash(0)


DOMAINS = (
    "# mine\nexample.com\n*.wild.example  # and why\n.dot.example\nBÜCHER.example.\n127.0.0.1\n\n"
)


@pytest.mark.parametrize(
    ("url", "listed"),
    [
        ("http://example.com/a.jpg", True),
        ("https://a.b.EXAMPLE.com:8443/", True),
        ("http://example.com./", True),
        ("http://notexample.com/", False),
        ("http://example.com.other.example/", False),
        ("http://com/", False),
        ("http://wild.example/", True),
        ("http://x.wild.example/", True),
        ("http://x.dot.example/", True),
        ("http://xn--bcher-kva.example/", True),
        ("http://2130706433/", True),
        ("http://127.0.0.2/", False),
        ("no url", False),
    ],
)
def test_a_listed_domain_covers_all_that_lies_under_it(
    tmp_path: Path, url: str, listed: bool
) -> None:
    assert lists(tmp_path, domains=DOMAINS).lists_url(url) == listed


@pytest.mark.parametrize(
    ("url", "listed"),
    [
        ("http://example.com/a.jpg", True),
        ("https://example.com/a.jpg", True),
        ("HTTP://Example.com:80/x/../a.jpg#f", True),
        ("http://example.com/%61.jpg", True),
        ("http://example.com/a.jpg?", False),
        ("http://example.com/A.jpg", False),
        ("http://example.com:81/a.jpg", False),
        ("http://other.example/ü?q=%2f", True),
        ("http://other.example/%c3%bc?q=%2F", True),
        ("http://other.example/%C3%BC?q=/", False),
        ("http://third.example:8080/", True),
        ("http://third.example/", False),
    ],
)
def test_a_listed_url_is_listed_in_all_its_spellings(
    tmp_path: Path, url: str, listed: bool
) -> None:
    text = "http://example.com/a.jpg\nhttps://other.example/ü?q=%2F#x\nhttp://third.example:8080\n"
    loaded = lists(tmp_path, urls=text)
    assert loaded.lists_url(url) == listed
    target = parse(url)
    assert target is not None and loaded.lists_url(target) == listed


@pytest.mark.parametrize(
    "line, listed",
    [
        ("http://example.com/a.jpg,two,more", True),
        ("7\thttps://example.com/a.jpg\t", True),
        ('{"url":"http:\\/\\/example.com\\/a.jpg","caption":', True),
        ("see <HTTP://EXAMPLE.COM/a.jpg>", True),
        ("http://example.com/b,c.jpg", True),
        ("http://example.com/b,d.jpg", False),
        ("http://example.com/a.jpg2", False),
        ("example.com/a.jpg", False),
        ("", False),
    ],
)
def test_a_line_is_listed_where_a_listed_url_stands_in_it(
    tmp_path: Path, line: str, listed: bool
) -> None:
    text = "http://example.com/a.jpg\nhttp://example.com/b,c.jpg\n"
    assert lists(tmp_path, urls=text).lists_line(line) == listed
    assert not lists(tmp_path, md5=hashlib.md5(b"one").hexdigest()).lists_line(line)


def test_files_are_listed_by_their_hashes(tmp_path: Path) -> None:
    by_md5 = lists(tmp_path, md5=hashlib.md5(b"one").hexdigest().upper())
    by_sha256 = lists(tmp_path, sha256=hashlib.sha256(b"two").hexdigest())
    assert [by_md5.lists_bytes(data) for data in (b"one", b"two", b"")] == [True, False, False]
    assert [by_sha256.lists_bytes(data) for data in (b"one", b"two", b"")] == [False, True, False]


def test_a_picture_is_listed_by_a_hash_close_to_its_own(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (8, 8), np.uint8)
    picture = Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC)
    value = int(phash([picture])[0])
    loaded = lists(tmp_path, phash=f"{value:016x}\n")
    assert loaded.lists_phash(value)
    assert loaded.lists_phash(value ^ 0x8000_0010_0001_0001)
    assert not loaded.lists_phash(value ^ 0x8000_0010_0001_0003)
    assert not lists(tmp_path, 0, phash=f"{value:016x}").lists_phash(value ^ 1)


SHA = [hashlib.sha256(bytes([number])).digest() for number in range(5)]


def sha_files(folder: Path) -> list[str]:
    """The same list in all formats."""
    digits = [entry.hex() for entry in SHA]
    text = "\ufeff# five\n" + "\r\n".join(reversed(digits)) + "  # last\n" + digits[0]
    (folder / "a.txt").write_text(text, encoding="utf-8")
    (folder / "b.txt.gz").write_bytes(gzip.compress(text.encode()))
    rows = io.StringIO()
    csv.writer(rows).writerows([["why", "SHA256"], *([f"a\n{x}", x] for x in digits), ["", ""]])
    (folder / "c.csv").write_text(rows.getvalue())
    (folder / "d.csv.gz").write_bytes(gzip.compress(rows.getvalue().encode()))
    pq.write_table(pa.table({"n": range(6), "sha256": [*digits, None]}), folder / "e.parquet")
    pq.write_table(pa.table({"Sha256": pa.array(SHA, pa.binary())}), folder / "f.parquet")
    (folder / "many").mkdir()
    for number, entry in enumerate(digits):
        (folder / "many" / f"{number}.txt").write_text(entry)
    return [str(path) for path in sorted(folder.iterdir())]


def test_all_formats_say_the_same(tmp_path: Path) -> None:
    loaded = [Blocklists.load(BlocklistSettings(sha256=path)) for path in sha_files(tmp_path)]
    assert len(loaded) == 7
    assert len({each.digest for each in loaded}) == 1
    for each in loaded:
        assert all(each.lists_bytes(bytes([number])) for number in range(5))
        assert not each.lists_bytes(b"\x05")


def test_perceptual_hashes_in_parquet_may_be_numbers(tmp_path: Path) -> None:
    values = [0, 1 << 63, 2**64 - 1]
    pq.write_table(pa.table({"phash": pa.array(values, pa.uint64())}), tmp_path / "p.parquet")
    numbers = Blocklists.load(BlocklistSettings(phash=str(tmp_path / "p.parquet")))
    text = lists(tmp_path, phash="\n".join(f"{value:016X}" for value in values))
    assert numbers.digest == text.digest


def test_the_digest_names_content_and_distance(tmp_path: Path) -> None:
    one, two = "0" * 16, "1" * 16
    digests = [
        lists(tmp_path).digest,
        lists(tmp_path, phash=one).digest,
        lists(tmp_path, phash=two).digest,
        lists(tmp_path, 3, phash=one).digest,
        lists(tmp_path, md5=one * 2).digest,
        lists(tmp_path, md5=one * 2, phash=one).digest,
        lists(tmp_path, domains="example.com").digest,
        lists(tmp_path, urls="http://example.com").digest,
    ]
    assert len(set(digests)) == len(digests)
    assert lists(tmp_path, phash=f"{two}\n{one}\n{two}").digest == (
        lists(tmp_path, phash=f"{one} # x\n{two}").digest
    )


BAD = {
    "uids": ["x" * 32, "0" * 31, "0" * 64],
    "domains": ["a b", "a.example/path", "http://a.example", "a.example:81", "*", "a..b", "u@h"],
    "urls": ["example.com/a.jpg", "ftp://example.com/", "http://u:p@example.com/"],
    "md5": ["x" * 32, "0" * 31, "0" * 64, "00 " * 10 + "00", "é" * 16],
    "sha256": ["x" * 64, "0" * 32],
    "phash": ["123", "x" * 16, "0x" + "0" * 16, "-" + "0" * 15],
}  # fmt: skip
GOOD = {
    "uids": "0" * 32,
    "domains": "example.com",
    "urls": "http://example.com",
    "md5": "0" * 32,
    "sha256": "0" * 64,
    "phash": "0" * 16,
}


@pytest.mark.parametrize(("name", "entry"), [(name, bad) for name in BAD for bad in BAD[name]])
def test_a_wrong_entry_is_named_with_its_file_and_line(
    tmp_path: Path, name: str, entry: str
) -> None:
    with pytest.raises(SluiceError) as raised:
        lists(tmp_path, **{name: f"# list\n{GOOD[name]}\n\n{entry}\n"})
    assert f"{name}.txt, line 4: " in raised.value.what
    assert f"`{name}`" in raised.value.way_out


def test_every_kind_of_list_is_tested() -> None:
    assert set(KINDS) == set(BAD) == set(GOOD)


def test_a_wrong_entry_in_a_table_is_named_too(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"md5": ["0" * 32, None, "no"]}), path)
    with pytest.raises(SluiceError, match=r"a\.parquet, row 3: 'no' is no MD5"):
        Blocklists.load(BlocklistSettings(md5=str(path)))
    pq.write_table(pa.table({"phash": [0, -1]}), path)
    with pytest.raises(SluiceError, match=r"a\.parquet, row 2: '-1' is no perceptual hash"):
        Blocklists.load(BlocklistSettings(phash=str(path)))
    path = tmp_path / "a.csv"
    path.write_text('why,md5\n"two\nlines",00000000000000000000000000000000\nx,no\n')
    with pytest.raises(SluiceError, match=r"a\.csv, line 4: 'no' is no MD5"):
        Blocklists.load(BlocklistSettings(md5=str(path)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "is empty"),
        ("comments.txt", b"# nothing\n\n", "is empty"),
        ("latin.txt", b"# ok\n# caf\xe9\n", r"latin\.txt, line 2: no UTF-8"),
        ("broken.txt.gz", b"not gzip", "cannot read"),
        ("cut.txt.gz", gzip.compress(b"0" * 32, mtime=0)[:-9], "cannot read"),
        ("flipped.txt.gz", gzip.compress(b"0" * 32, mtime=0)[:10] + b"\xff" * 30, "cannot read"),
        ("broken.parquet", b"PAR1", "cannot read"),
        ("other.csv", b"url,domain\na,b\n", "no column 'md5'; it has url, domain"),
        ("none.csv", b"", "no column 'md5'; it has none"),
    ],
)
def test_a_list_that_cannot_be_read_is_an_error(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SluiceError, match=message):
        Blocklists.load(BlocklistSettings(md5=str(path)))


def test_a_list_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SluiceError, match=r"`md5` at .*none\.txt does not exist"):
        Blocklists.load(BlocklistSettings(md5=str(tmp_path / "none.txt")))


def test_settings_are_checked() -> None:
    for wrong in ({"phash_distance": 11}, {"phash_distance": -1}, {"sha1": "a.txt"}):
        with pytest.raises(ValidationError):
            BlocklistSettings.model_validate(wrong)


def test_the_row_of_a_listed_sample_says_only_that_it_was_listed() -> None:
    row = dict.fromkeys([*ROWS.names, "http_status", "original_width", "tar", "anything"], "secret")
    told = {name: value for name, value in blocked_row(row).items() if value is not None}
    assert told == {
        "uid": "secret",
        "shard": "secret",
        "row": "secret",
        "source": "secret",
        "status": "rejected",
        "reason": "blocklisted",
    }
    assert blocked_row(row).keys() == row.keys()
