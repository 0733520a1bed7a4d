"""A store on a bad network and a full disk: the same bytes in the end, or words and a way out."""

import errno
import io
import os
import resource
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra import artifacts, filesystem
from infra.artifacts import Artifact, Part, Spec
from infra.dataset import Dataset, ShardWriter, make_uid
from infra.errors import SluiceError
from infra.filesystem import join, reading, retries, uploads, write_bytes, write_whole
from infra.filesystem.uploads import part_size
from infra.progress import SilentDisplay
from infra.runner import InlineRunner
from infra.stage import Draft, Item, run_stage
from tests.faults import FAULTS, Proxy
from tests.s3 import S3, environment

SPEC = Spec("dataset", "tests.faults", {"images": 3})


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with S3() as made:
        yield made


@pytest.fixture(scope="module")
def proxy(s3: S3) -> Iterator[Proxy]:
    with Proxy(s3.endpoint) as made, environment(AWS_ENDPOINT_URL=made.endpoint):
        yield made


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST", 0.01)


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Ingest:
    """Writes a shard of three tiny images."""

    url: str

    def __call__(self, shard: int, todo: list[str]) -> Mapping[str, Part]:
        with ShardWriter(self.url, shard) as writer:
            for row in range(3):
                image = picture(3 * shard + row)
                facts = {"shard": shard, "row": row, "status": "ok", "format": "jpg"}
                writer.add({**facts, "uid": make_uid(None, None, image), "caption": "a"}, image)
        return {"": Part(f"{shard:05d}", tuple(writer.files), rows=3, kept=3)}


def ingest(url: str, shards: int) -> Artifact:
    items = [Item(f"{shard:05d}", shard) for shard in range(shards)]
    drafts = {"": Draft(url, SPEC)}
    return run_stage("test", drafts, items, Ingest(url), InlineRunner(), SilentDisplay())[""]


def images_of(artifact: Artifact) -> list[bytes]:
    dataset = Dataset(artifact)
    return [sample.image for shard in dataset.shards for sample in dataset.samples(shard)]


def names_of(artifact: Artifact) -> set[str]:
    return {file.path for part in artifact.parts for file in part.files} | {
        "manifest.json",
        "timing.json",
    }


def names_at(s3: S3, url: str) -> set[str]:
    folder = url.removeprefix("s3://")
    return {name.removeprefix(f"{folder}/") for name in s3.files().find(folder)}


ALL = dict.fromkeys(FAULTS, 0.07)


@pytest.mark.parametrize("rates", [*({fault: 0.3} for fault in FAULTS), ALL], ids="-".join)
def test_a_stage_on_a_bad_network_ends_with_the_same_bytes(
    s3: S3, proxy: Proxy, rates: dict[str, float], tmp_path: Path
) -> None:
    expected = ingest(str(tmp_path / "store"), 4)
    url = s3.url("spoilt", "-".join(rates))
    with proxy.spoilt(rates, seed=9):
        made = ingest(url, 4)
        assert images_of(made) == images_of(expected)
    assert proxy.faults().keys() == rates.keys()  # with this seed every one came
    manifest = filesystem.read_bytes(made.path("manifest.json"))
    assert manifest == filesystem.read_bytes(expected.path("manifest.json"))
    assert artifacts.verify(made) == []
    ingest(url, 4)  # sweeps up what a list did not show
    assert names_at(s3, url) == names_of(made)


def test_the_library_does_not_try_again_beside_us(
    s3: S3, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "TRIES", 4)
    with proxy.spoilt({"busy": 1.0}):
        with pytest.raises(SluiceError, match=r"reduce|spoilt.*\(4 tries in "):
            write_bytes(s3.url("busy"), "a", b"x")
        assert len(proxy.seen) == 4


def test_a_conditional_put_is_one_request_also_for_a_long_manifest(s3: S3, proxy: Proxy) -> None:
    folder = s3.url("put")
    for size in (10, 6 * 2**20):
        with proxy.spoilt():
            assert filesystem.put_if_absent(folder, str(size), bytes(size))
            (put,) = proxy.seen
        assert (put.method, put.headers["if-none-match"], put.sent) == ("PUT", "*", size)
        assert not filesystem.put_if_absent(folder, str(size), bytes(size) + b"x")


def test_a_put_whose_answer_was_lost_is_told_by_what_stands_there(s3: S3, proxy: Proxy) -> None:
    folder = s3.url("lost")
    with proxy.spoilt({"lost": 0.5}):
        for number in range(10):
            assert filesystem.put_if_absent(folder, str(number), b"ours")
            assert not filesystem.put_if_absent(folder, str(number), b"theirs")
        lost = [seen for seen in proxy.seen if seen.fault == "lost" and seen.method == "PUT"]
        assert len(lost) > 3


def test_a_store_that_ignores_the_condition_is_refused(s3: S3, proxy: Proxy) -> None:
    store = s3.url("ignoring")
    filesystem.check_writable(store)
    with proxy.spoilt(drop=("if-none-match",)), pytest.raises(SluiceError) as caught:
        filesystem.check_writable(store)
    assert store in caught.value.what and "honours conditional writes" in caught.value.way_out
    assert names_at(s3, store) == set()


def test_a_stream_goes_on_where_it_broke(
    s3: S3, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SMALLEST", 2**16)
    folder, data = s3.url("stream"), os.urandom(2**21)
    write_bytes(folder, "tar", data)
    with proxy.spoilt({"torn": 0.4}, seed=30):
        with filesystem.open_read(join(folder, "tar")) as file:
            assert file.read() == data
        sizes = [seen.answered for seen in proxy.seen if seen.method == "GET" and not seen.fault]
    assert proxy.faults()["torn"] > 1
    assert sum(sizes) == len(data)  # nothing that came whole is asked for again


@pytest.mark.parametrize("broken", [False, True])
def test_a_file_that_changes_while_it_is_read_is_no_mix(s3: S3, proxy: Proxy, broken: bool) -> None:
    folder = s3.url("changing", str(broken))
    write_bytes(folder, "tar", b"a" * 10**6)
    with proxy.spoilt(), filesystem.open_read(join(folder, "tar"), ahead=False) as file:
        assert file.read(1000) == b"a" * 1000
        s3.files().pipe_file(join(folder, "tar"), b"b" * 10**6)
        if broken:
            proxy.rates["busy"] = 0.5
        with pytest.raises(SluiceError, match="tar: it changed while it was read"):
            file.read(1000)


def test_parts_grow_so_that_ten_thousand_are_enough() -> None:
    sizes = [part_size(number) for number in range(10_000)]
    reached = np.cumsum(sizes[:9_000], dtype=np.float64)
    needed = int(np.searchsorted(reached, 5 * 2**40)) + 1  # S3's largest object
    assert needed < 10_000 and max(sizes[:needed]) <= 5 * 2**30  # and its largest part
    assert set(sizes[:1000]) == {16 * 2**20}


def test_a_long_file_goes_in_equal_parts_and_one_given_up_leaves_none(
    s3: S3, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PART", 5 * 2**20)
    folder, data = s3.url("long"), os.urandom(2**20)
    rates = {"busy": 0.1, "cut": 0.1, "lost": 0.2}
    with proxy.spoilt(rates, seed=2), write_whole(folder, "long.tar") as file:
        for _ in range(23):
            file.write(data)
        assert not filesystem.exists(join(folder, "long.tar"))
    parts = [seen.sent for seen in proxy.seen if "partnumber" in seen.query.lower()]
    assert set(parts) == {5 * 2**20, 3 * 2**20} and sum(proxy.faults().values()) > 2
    assert filesystem.read_bytes(join(folder, "long.tar")) == data * 23

    before = len(s3.unfinished())
    with pytest.raises(ZeroDivisionError), write_whole(folder, "half.tar") as file:
        for _ in range(12):
            file.write(data)
        raise ZeroDivisionError
    assert not filesystem.exists(join(folder, "half.tar"))
    assert len(s3.unfinished()) == before


@dataclass(frozen=True)
class Write:
    """Writes one small file."""

    url: str

    def __call__(self, shard: int, todo: list[str]) -> Mapping[str, Part]:
        return {"": Part(f"{shard:05d}", (write_bytes(self.url, f"{shard:05d}", b"x"),))}


@pytest.mark.slow
def test_requests_of_a_stage_grow_by_its_puts_alone(s3: S3, proxy: Proxy) -> None:
    counts = []
    for shards in (20, 200):
        url = s3.url("counted", str(shards))
        items = [Item(f"{shard:05d}", shard) for shard in range(shards)]
        s3.forget()
        draft = Draft(url, SPEC)
        run_stage("test", {"": draft}, items, Write(url), InlineRunner(), SilentDisplay())
        counts.append(s3.methods())
    few, many = counts
    assert many["PUT"] - few["PUT"] == 2 * 180  # a file, and the record of its part
    assert many["GET"] - few["GET"] == 180  # the record, once, for the manifest
    assert (many["LIST"], many["HEAD"]) == (few["LIST"], few["HEAD"])
    assert many["LIST"] <= 8
    assert many["POST"] == few["POST"] == 1  # records are removed by the thousand


def test_a_commit_does_not_depend_on_a_list(s3: S3, proxy: Proxy) -> None:
    """The parts of a stage are known by name; a list may not show the last of them."""
    url = s3.url("listed")
    with proxy.spoilt({"stale": 1.0}):
        made = ingest(url, 5)
    assert len(made.parts) == 5 and proxy.faults()["stale"] > 0


@contextmanager
def small_files(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_with_its_path_and_the_store_goes_on(tmp_path: Path) -> None:
    expected = ingest(str(tmp_path / "other"), 4)
    url = str(tmp_path / "store")
    with pytest.raises(SluiceError) as caught, small_files(4000):
        ingest(url, 4)  # a tar does not fit
    assert f"cannot write {url}/shards/00000.tar: {os.strerror(errno.EFBIG)}" in caught.value.what
    assert "free space" in caught.value.way_out
    assert artifacts.load(url) is None
    assert ingest(url, 4).content == expected.content
    assert {path.name for path in Path(url).iterdir()} == {
        "manifest.json", "timing.json", "rows", "shards",
    }  # fmt: skip


def test_a_full_file_system_is_told_and_with_more_space_the_stage_goes_on(tmp_path: Path) -> None:
    expected, url = ingest(str(tmp_path / "other"), 4), str(tmp_path / "store")
    Path(url).mkdir()
    mount = ["mount", "-t", "tmpfs", "none", url, "-o"]
    if subprocess.run([*mount, "size=64k"], check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        with pytest.raises(SluiceError) as caught:
            ingest(url, 4)
        assert f"cannot write {url}/" in caught.value.what
        assert os.strerror(errno.ENOSPC) in caught.value.what
        done = artifacts.recorded_names(url)
        assert 0 < len(done) < 4 and artifacts.load(url) is None
        subprocess.run([*mount, "remount,size=1m"], check=True)
        assert ingest(url, 4).content == expected.content
    finally:
        subprocess.run(["umount", url], check=True)


def test_a_write_that_goes_on_while_another_is_read_is_not_disturbed(s3: S3, proxy: Proxy) -> None:
    """Two files open for writing at once, on two threads and on one."""
    folder = s3.url("many")

    def write(name: str) -> None:
        with write_whole(folder, name) as one, write_whole(folder, f"{name}-twin") as two:
            one.write(name.encode())
            two.write(name.encode())

    threads = [threading.Thread(target=write, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names_at(s3, folder)) == 8
