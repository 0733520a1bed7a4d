"""Files of a remote store are fetched once, whoever asks, and never more than fits is kept."""

import errno
import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra import artifacts, cache
from infra.cache import open_cached, open_kept, open_url, parse
from infra.dataset import Dataset, read_images
from infra.errors import SluiceError
from infra.filesystem import FilePart, write_bytes
from tests.faults import Proxy
from tests.infra.test_faults import images_of, ingest
from tests.s3 import S3, environment


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with S3() as s3, Proxy(s3.endpoint) as made, environment(AWS_ENDPOINT_URL=made.endpoint):
        yield made


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a cache of 1 MB, and none of what this process knows of others."""
    monkeypatch.setenv(cache.VARIABLE, f"{tmp_path}/cache:1MB")
    monkeypatch.setattr(cache, "_off", False)
    cache._committed.cache_clear()
    return tmp_path / "cache" / "files"


def put(name: str, size: int) -> tuple[str, FilePart, bytes]:
    data = os.urandom(size)
    part = write_bytes("s3://sluice/cached", name, data)
    return f"s3://sluice/cached/{name}", part, data


def read(url: str, part: FilePart | None) -> bytes:
    with open_url(url, part) as file:
        return file.read()


def fetched(proxy: Proxy) -> int:
    """The bytes of files that came from the store."""
    return sum(seen.answered for seen in proxy.seen if "/tars/" not in seen.path)


def size_of(kept: Path) -> int:
    """The bytes in a cache, while nobody takes a place in it; files are renamed all the same."""
    with (kept.parent / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stats = [path.stat() for path in kept.parent.rglob("*") if path.is_file()]
    return sum({stat.st_ino: stat.st_size for stat in stats}.values())


def test_the_second_epoch_fetches_nothing(proxy: Proxy, kept: Path) -> None:
    made = ingest("s3://sluice/epochs", 3)
    with proxy.spoilt():
        first = images_of(made)
        assert fetched(proxy) > 0
    with proxy.spoilt():
        assert images_of(made) == first
        assert read_images(made.url, 1, [0, 2]) == {0: first[3], 2: first[5]}
        assert Dataset(made).rows(2, ["uid"]).num_rows == 3
        # Which shards there are is asked once, whether one has a list of tars each time.
        manifests = [seen for seen in proxy.seen if seen.path.endswith(artifacts.MANIFEST)]
        tars = [seen for seen in proxy.seen if seen.path.split("/")[-2] == "tars"]
        assert (len(manifests), len(tars), len(proxy.seen)) == (1, 4, 5)
    assert {path.name for path in kept.iterdir()} == {
        file.sha256 for part in made.parts for file in part.files
    }


def test_without_a_setting_and_on_a_disk_nothing_is_kept(
    proxy: Proxy, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images_of(ingest(str(tmp_path / "store"), 1))
    monkeypatch.delenv(cache.VARIABLE)
    url, part, data = put("unkept", 1000)
    assert read(url, part) == data
    assert not kept.exists()


def test_a_few_images_do_not_fetch_a_shard(proxy: Proxy, kept: Path) -> None:
    made = ingest("s3://sluice/few", 1)
    assert len(read_images(made.url, 0, [1])) == 1
    assert open_kept(made.url, "shards/00000.tar") is None
    open_cached(made.url, "shards/00000.tar").close()
    assert open_kept(made.url, "shards/00000.tar") is not None


@pytest.mark.parametrize("known", [True, False])
def test_a_damaged_file_is_fetched_anew(
    proxy: Proxy, kept: Path, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, part, data = put("damaged", 10_000)
    given = part if known else None
    assert read(url, given) == data
    (path,) = kept.iterdir()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    monkeypatch.setattr(cache, "_sound", {})  # as a new process
    with proxy.spoilt():
        assert read(url, given) == data
        assert fetched(proxy) == 10_000
    path.write_bytes(data[:5000])  # cut short, and noticed by its size and time
    assert read(url, given) == data


def test_a_changed_file_is_another(proxy: Proxy, kept: Path) -> None:
    url, _, data = put("changing", 1000)
    assert read(url, None) == data
    url, _, data = put("changing", 1000)
    assert read(url, None) == data


def test_a_file_that_is_not_what_its_manifest_says_is_not_kept(proxy: Proxy, kept: Path) -> None:
    url, part, data = put("wrong", 1000)
    assert read(url, FilePart("wrong", 1000, "0" * 64)) == data
    assert read(url, FilePart("wrong", 999, part.sha256)) == data
    assert list(kept.iterdir()) == [] == list((kept.parent / "coming").iterdir())
    with pytest.raises(FileNotFoundError):
        read(f"{url}-gone", part)
    with pytest.raises(FileNotFoundError):
        read(f"{url}-gone", None)


def test_what_was_not_read_for_the_longest_goes_and_the_bound_holds(
    proxy: Proxy, kept: Path
) -> None:
    files = [put(f"evicted-{number}", 300_000) for number in range(4)]
    for url, part, data in files[:3]:
        assert read(url, part) == data
    assert read(*files[0][:2]) == files[0][2]
    assert read(*files[3][:2]) == files[3][2]
    assert {path.name for path in kept.iterdir()} == {files[n][1].sha256 for n in (0, 2, 3)}
    assert size_of(kept) <= 10**6
    url, part, data = put("too-big", 10**6 + 1)
    assert read(url, part) == data
    assert len(list(kept.iterdir())) == 3


def test_a_file_in_use_is_read_to_its_end_though_it_goes(proxy: Proxy, kept: Path) -> None:
    url, part, data = put("used", 600_000)
    with open_url(url, part) as file:
        assert file.read(1000) == data[:1000]
        read(*put("pusher", 600_000)[:2])
        assert part.sha256 not in {path.name for path in kept.iterdir()}
        assert file.read() == data[1000:]


def test_many_who_want_a_file_fetch_it_once(proxy: Proxy, kept: Path) -> None:
    url, part, data = put("wanted", 200_000)
    with proxy.spoilt({"slow": 1.0}), ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, [url] * 4, [part] * 4)) == [data] * 4
        assert fetched(proxy) == 200_000
    assert size_of(kept) == 200_000


PROCESS = """
import sys
from infra.cache import open_url
from infra.filesystem import FilePart
for _ in range(8):
    for name, sha in zip(sys.argv[1::2], sys.argv[2::2]):
        data = open_url(f"s3://sluice/cached/{name}", FilePart(name, 300_000, sha)).read()
        assert len(data) == 300_000
"""


@pytest.mark.slow
def test_processes_share_the_folder_and_its_bound(proxy: Proxy, kept: Path) -> None:
    """Five files of 300 kB in turn, where three fit: each process evicts what others want."""
    words = [word for n in range(5) for word in (f"p{n}", put(f"p{n}", 300_000)[1].sha256)]
    command = [sys.executable, "-c", PROCESS, *words]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    most = 0
    while any(process.poll() is None for process in running):
        time.sleep(0.05)
        try:
            most = max(most, size_of(kept))
        except FileNotFoundError:  # it went while we looked
            continue
    assert [process.communicate()[1] for process in running] == [b"", b""]
    assert [process.returncode for process in running] == [0, 0]
    assert 600_000 <= most <= 10**6


def test_what_a_killed_process_left_does_not_count(proxy: Proxy, kept: Path) -> None:
    coming = kept.parent / "coming"
    coming.mkdir(parents=True)
    (coming / "killed").write_bytes(bytes(900_000))
    with (coming / "alive").open("wb") as other:
        other.write(bytes(500_000))
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        url, part, data = put("beside", 400_000)
        assert read(url, part) == data
        assert [path.name for path in kept.iterdir()] == [part.sha256]
        url, part, data = put("no-room", 600_000)
        assert read(url, part) == data  # and is not kept: what is coming cannot be evicted
    assert [path.name for path in coming.iterdir()] == ["alive"]


def test_a_full_disk_turns_it_off_with_one_line(
    proxy: Proxy, kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mounted = _tmpfs(kept.parent, "256k")
    if not mounted:
        pytest.skip("this user may not mount a file system")
    try:
        for number in range(2):
            url, part, data = put(f"full-{number}", 900_000)
            assert read(url, part) == data
        assert size_of(kept) == 0
    finally:
        subprocess.run(["umount", str(kept.parent)], check=True)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert re.search(f"shard cache at {kept.parent} is off .*{os.strerror(errno.ENOSPC)}", told)


def _tmpfs(folder: Path, size: str) -> bool:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    "value", ["", "/nvme", "/nvme:many", "nvme:1GB", "/nvme:0GB", "/n:1.2.3GB"]
)
def test_a_wrong_setting_is_told(value: str) -> None:
    with pytest.raises(SluiceError, match="is not FOLDER:SIZE"):
        parse(value)


def test_a_setting_of_a_run_holds_while_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    with cache.used("/nvme/a b:1.5TB"):
        assert cache.setting() == cache.Setting(Path("/nvme/a b"), 1_500_000_000_000)
        with cache.used(""):
            assert cache.setting() is not None
    assert cache.setting() is None
