"""Files appear whole or not at all, on a disk and on object stores (memory://, an S3 server)."""

import hashlib
import os
import resource
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from infra import filesystem
from infra.errors import SluiceError
from infra.filesystem import (
    FilePart,
    join,
    list_files,
    put_if_absent,
    urls,
    write_bytes,
    write_whole,
)
from tests.infra.contenders import put
from tests.s3 import BUCKET, S3, environment, free_port


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with S3() as made:
        yield made


@pytest.fixture(params=["disk", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "store")
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/store"
    return request.getfixturevalue("s3").url(uuid.uuid4().hex, "store")


def test_a_written_file_is_described_by_its_part(folder: str) -> None:
    part = write_bytes(folder, "a/b.bin", b"some bytes")
    assert part == FilePart("a/b.bin", 10, hashlib.sha256(b"some bytes").hexdigest())
    url = join(folder, "a/b.bin")
    assert filesystem.read_bytes(url) == b"some bytes"
    assert filesystem.size(url) == 10
    assert filesystem.exists(url)
    with filesystem.open_read(url) as file:
        assert file.read(4) == b"some"


def test_a_file_is_not_there_while_it_is_written(folder: str) -> None:
    with write_whole(folder, "part.bin") as file:
        file.write(b"half")
        assert not filesystem.exists(join(folder, "part.bin"))
    assert filesystem.read_bytes(join(folder, "part.bin")) == b"half"


def test_a_failed_writer_leaves_nothing_and_its_error_passes(folder: str) -> None:
    with pytest.raises(ZeroDivisionError), write_whole(folder, "part.bin") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert not filesystem.exists(join(folder, "part.bin"))
    assert list_files(folder) == []


def test_an_error_of_reading_is_not_told_as_one_of_writing(folder: str) -> None:
    with pytest.raises(FileNotFoundError), write_whole(folder, "copy.bin") as file:
        file.write(Path("/no/such/source").read_bytes())


def test_a_failed_writer_leaves_the_old_file(folder: str) -> None:
    write_bytes(folder, "part.bin", b"old")
    with pytest.raises(ZeroDivisionError), write_whole(folder, "part.bin") as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert filesystem.read_bytes(join(folder, "part.bin")) == b"old"


KILLED_WRITER = """
import os, signal, sys
from infra.filesystem import write_whole
with write_whole(sys.argv[1], "shards/00000.tar") as file:
    file.write(bytes(int(sys.argv[2])))
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", KILLED_WRITER, str(tmp_path), "1000000"], check=False
    )
    assert run.returncode == -signal.SIGKILL
    assert list((tmp_path / "shards").iterdir()) == []
    assert [path.parent.name for path in tmp_path.rglob("*-00000.tar")] == [filesystem.TEMPORARY]


def test_an_upload_cut_short_is_not_to_be_seen(s3: S3) -> None:
    size = 60 * 2**20  # more than one part of an upload
    command = [sys.executable, "-c", KILLED_WRITER, s3.url("killed"), str(size)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert s3.unfinished() == ["killed/shards/00000.tar"]
    assert list_files(s3.url("killed")) == []
    assert not filesystem.exists(s3.url("killed", "shards", "00000.tar"))
    with write_whole(s3.url("killed"), "shards/00000.tar") as file:
        file.write(bytes(size))
    assert filesystem.size(s3.url("killed", "shards", "00000.tar")) == size


def test_the_first_put_wins(folder: str) -> None:
    assert put_if_absent(folder, "manifest.json", b"first")
    assert not put_if_absent(folder, "manifest.json", b"second")
    assert filesystem.read_bytes(join(folder, "manifest.json")) == b"first"
    assert len(list_files(folder)) == 1


def test_of_many_writers_at_once_exactly_one_wins(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, get_context("spawn")) as pool:
        for round_ in range(10):
            folder = str(tmp_path / str(round_))
            won = list(pool.map(put, [(folder, writer) for writer in range(8)]))
            assert sum(won) == 1
            expected = str(won.index(True)).encode() * 1000
            assert Path(folder, "manifest.json").read_bytes() == expected
            assert [path.name for path in Path(folder).rglob("*") if path.is_file()] == [
                "manifest.json"
            ]


def test_of_many_writers_to_s3_exactly_one_wins(s3: S3) -> None:
    with ProcessPoolExecutor(4, get_context("spawn")) as pool:
        for round_ in range(4):
            folder = s3.url("raced", str(round_))
            won = list(pool.map(put, [(folder, writer) for writer in range(8)]))
            assert sum(won) == 1
            expected = str(won.index(True)).encode() * 1000
            assert filesystem.read_bytes(join(folder, "manifest.json")) == expected


@pytest.mark.parametrize(
    "url, names, expected",
    [
        ("az://box/a/", ["box/a/b", "box/a/c/d"], ["az://box/a/b", "az://box/a/c/d"]),
        ("abfs://box@here.dfs.core.windows.net/a", ["box/a/b"],
         ["abfs://box@here.dfs.core.windows.net/a/b"]),
        ("s3a://box/a/*.tar", ["box/a/1.tar"], ["s3a://box/a/1.tar"]),
        ("gcs://box", ["box/a"], ["gcs://box/a"]),
        ("file:///a/b", ["/a/b/c"], ["file:///a/b/c"]),
        ("memory://box/a", ["/box/a/b"], ["memory://box/a/b"]),
        ("/a/b", ["/a/b/c"], ["/a/b/c"]),
    ],
)  # fmt: skip
def test_what_is_listed_is_named_as_the_folder_is(
    url: str, names: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if url.startswith(("az", "abfs", "gcs")):  # their libraries are extras
        path = names[0].rsplit("/", 1)[0]
        monkeypatch.setattr(urls, "resolve", lambda url: (None, path))
    assert urls.named_as(url, names) == expected


def test_a_file_url_lists_file_urls(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_bytes(b"x")
    assert list_files(f"file://{tmp_path}") == [f"file://{tmp_path}/a/b"]
    assert list_files(f"file://{tmp_path}/*/b") == [f"file://{tmp_path}/a/b"]


def test_what_another_process_wrote_or_removed_is_seen(s3: S3) -> None:
    folder, other = s3.url("seen"), s3.files()
    write_bytes(folder, "a", b"x")
    assert list_files(folder) == [join(folder, "a")]
    other.pipe_file(join(folder, "b"), b"longer")
    other.rm_file(join(folder, "a"))
    assert filesystem.exists(join(folder, "b")) and not filesystem.exists(join(folder, "a"))
    assert list_files(folder) == [join(folder, "b")]
    before = filesystem.state(join(folder, "b"))
    other.pipe_file(join(folder, "b"), b"as long")
    assert filesystem.state(join(folder, "b")) != before


def test_lists_are_sorted_urls_of_files_alone(folder: str) -> None:
    for name in ("b.tar", "a.tar", "c.txt", "deep/d.tar"):
        write_bytes(folder, name, b"x")

    def names(url: str) -> list[str]:
        found = list_files(url)
        assert all(filesystem.read_bytes(file) == b"x" for file in found)
        return [file.split("/store/")[1] for file in found]

    assert names(folder) == ["a.tar", "b.tar", "c.txt", "deep/d.tar"]
    assert names(join(folder, "*.tar")) == ["a.tar", "b.tar"]
    assert names(join(folder, "**", "*.tar")) == ["a.tar", "b.tar", "deep/d.tar"]
    assert names(join(folder, "c.txt")) == ["c.txt"]
    assert names(join(folder, "missing")) == []


def test_a_removed_tree_is_gone_and_removing_nothing_is_no_error(folder: str) -> None:
    write_bytes(folder, "a/b.bin", b"x")
    filesystem.remove_tree(join(folder, "a"))
    filesystem.remove_tree(join(folder, "a"))
    assert not filesystem.exists(join(folder, "a/b.bin"))


def test_a_store_in_the_place_of_a_file_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("I am a file")
    with pytest.raises(SluiceError) as caught:
        write_bytes(str(tmp_path / "store"), "a/b.bin", b"x")
    assert f"cannot write {tmp_path}/store/a/b.bin" in caught.value.what
    assert "--store" in caught.value.way_out


@pytest.mark.parametrize("size", [5_000, 10**6])  # the error comes at the end, or on the way
def test_a_disk_that_takes_no_more_is_told_in_words(tmp_path: Path, size: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        with pytest.raises(SluiceError) as caught:
            write_bytes(str(tmp_path), "part.bin", bytes(size))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"cannot write {tmp_path}/part.bin: File too large" in caught.value.what
    assert "free space" in caught.value.way_out
    assert list_files(str(tmp_path)) == []


def _everything(url: str) -> Iterator[str]:
    """What each way of asking a store says, on a file of a store where nothing can be done."""
    folder, _, name = url.rpartition("/")
    ways = {
        "exists": lambda: filesystem.exists(url),
        "info": lambda: filesystem.info(url),
        "list": lambda: list_files(folder),
        "pattern": lambda: list_files(join(folder, "*")),
        "bytes": lambda: filesystem.read_bytes(url),
        "many": lambda: filesystem.read_many([url, url]),
        "open": lambda: filesystem.open_read(url).read(),
        "write": lambda: write_bytes(folder, name, b"x"),
        "put": lambda: put_if_absent(folder, name, b"x"),
    }
    for way, ask in ways.items():
        with pytest.raises(SluiceError) as caught:
            ask()
        assert folder in caught.value.what, way
        assert "credentials" in caught.value.way_out and "AWS_ENDPOINT_URL" in caught.value.way_out
        yield caught.value.what


def test_an_endpoint_that_is_not_there_is_told_in_words(s3: S3) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    # One try: an endpoint that never answered is asked for 20 s.
    with environment(AWS_ENDPOINT_URL=nowhere, SLUICE_RETRY_SECONDS="0"):
        for told in _everything(s3.url("store", "manifest.json")):
            assert nowhere in told


def test_missing_credentials_are_told_in_words(s3: S3) -> None:
    with environment():
        del os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
        for told in _everything(s3.url("store", "manifest.json")):
            assert "Unable to locate credentials" in told


def test_what_is_not_allowed_is_told_in_words(s3: S3) -> None:
    write_bytes(s3.url("denied"), "manifest.json", b"x")
    with s3.refusing("denied"):
        for ask in (
            lambda: filesystem.read_bytes(s3.url("denied", "manifest.json")),
            lambda: filesystem.open_read(s3.url("denied", "manifest.json")).read(),
            lambda: write_bytes(s3.url("denied"), "manifest.json", b"x"),
            lambda: put_if_absent(s3.url("denied"), "other.json", b"x"),
        ):
            with pytest.raises(SluiceError, match=rf"s3://{BUCKET}/denied/.*(Denied|Forbidden)"):
                ask()


def test_a_bucket_that_is_not_there_holds_nothing_and_takes_nothing(s3: S3) -> None:
    assert not filesystem.exists("s3://no-such-bucket/store/manifest.json")
    with pytest.raises(FileNotFoundError):
        filesystem.read_bytes("s3://no-such-bucket/store/manifest.json")
    for put_file in (write_bytes, put_if_absent):
        with pytest.raises(SluiceError, match=r"s3://no-such-bucket/store/a: .*bucket does not"):
            put_file("s3://no-such-bucket/store", "a", b"x")


def test_an_unknown_scheme_names_the_packages_to_add() -> None:
    with pytest.raises(SluiceError) as caught:
        filesystem.resolve("nosuch://bucket/store")
    assert "nosuch://bucket/store" in caught.value.what
    assert "s3fs" in caught.value.way_out


def test_free_space_is_known_for_disks_alone(tmp_path: Path) -> None:
    free = filesystem.free_bytes(str(tmp_path / "not" / "yet" / "there"))
    assert free is not None
    assert free > 0
    assert filesystem.free_bytes("memory://store") is None


def test_a_disk_without_permission_is_refused_in_words(tmp_path: Path) -> None:
    if os.geteuid() == 0:  # root may write anywhere but into a file system of the kernel's
        folder = "/proc/sluice"
    else:
        tmp_path.chmod(0o500)
        folder = str(tmp_path / "store")
    with pytest.raises(SluiceError, match=f"cannot write {folder}"):
        write_bytes(folder, "part.bin", b"x")


def test_a_pattern_finds_files_and_links_to_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    (tmp_path / "broken.txt").symlink_to(tmp_path / "gone")
    assert list_files(str(tmp_path / "*.txt")) == [
        str(tmp_path / "a.txt"),
        str(tmp_path / "link.txt"),
    ]
