"""Files, puts and stages on Google Cloud Storage and Azure, before emulators (tests/clouds.py)."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import artifacts, filesystem
from infra.errors import SluiceError
from infra.filesystem import join, retries, write_bytes, write_whole
from tests.clouds import CLOUDS
from tests.faults import Proxy
from tests.infra.test_faults import images_of, ingest

pytestmark = pytest.mark.long
RATES = dict.fromkeys(("busy", "error", "torn", "cut", "lost"), 0.08)


@pytest.fixture(scope="module", params=list(CLOUDS))
def cloud(request: pytest.FixtureRequest) -> Iterator[tuple[str, Proxy]]:
    with CLOUDS[request.param]() as proxy:
        yield f"{request.param}://sluice", proxy


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST", 0.01)


def test_files_are_written_read_listed_and_removed(cloud: tuple[str, Proxy]) -> None:
    folder = f"{cloud[0]}/basics"
    write_bytes(folder, "a", b"some bytes")
    write_bytes(folder, "deep/b", b"")
    assert filesystem.read_bytes(join(folder, "a")) == b"some bytes"
    assert filesystem.read_bytes(join(folder, "deep/b")) == b""
    assert filesystem.read_many([join(folder, "a"), join(folder, "gone")]) == [b"some bytes", None]
    assert filesystem.read_ranges(join(folder, "a"), [(0, 4), (5, 99)]) == [b"some", b"bytes"]
    assert [name.split("/basics/")[1] for name in filesystem.list_files(folder)] == ["a", "deep/b"]
    before = filesystem.state(join(folder, "a"))
    write_bytes(folder, "a", b"other byte")
    assert filesystem.state(join(folder, "a")) != before
    with pytest.raises(FileNotFoundError):
        filesystem.read_bytes(join(folder, "gone"))
    with pytest.raises(SluiceError, match="no-such-bucket/a"):
        write_bytes(cloud[0].replace("sluice", "no-such-bucket"), "a", b"x")
    filesystem.remove_tree(folder)
    assert filesystem.list_files(folder) == []


def test_a_put_is_conditional(cloud: tuple[str, Proxy]) -> None:
    store, proxy = cloud
    with proxy.spoilt():
        assert filesystem.put_if_absent(store, "manifest.json", b"first")
        (put,) = [seen for seen in proxy.seen if seen.method in ("PUT", "POST")]
    if store.startswith("gs"):
        assert "ifGenerationMatch=0" in put.query
        # The emulator ignores it; a store that does is refused.
        with pytest.raises(SluiceError, match="overwrites a file"):
            filesystem.check_writable(store)
    else:
        assert put.headers["if-none-match"] == "*"
        assert not filesystem.put_if_absent(store, "manifest.json", b"second")
        assert filesystem.read_bytes(join(store, "manifest.json")) == b"first"
        filesystem.check_writable(store)


def test_a_long_file_goes_in_parts_and_half_of_one_is_not_to_be_seen(
    cloud: tuple[str, Proxy],
) -> None:
    folder, data = f"{cloud[0]}/long", os.urandom(2**20)
    with cloud[1].spoilt({**RATES, "torn": 0.0, "error": 0.2}, seed=4):
        with write_whole(folder, "long.tar") as file:
            for _ in range(40):
                file.write(data)
            assert not filesystem.exists(join(folder, "long.tar"))
        with filesystem.open_read(join(folder, "long.tar")) as read:
            assert read.read() == data * 40
        assert cloud[1].faults()
    with pytest.raises(ZeroDivisionError), write_whole(folder, "half.tar") as file:
        for _ in range(40):
            file.write(data)
        raise ZeroDivisionError
    assert not filesystem.exists(join(folder, "half.tar"))


def test_the_library_does_not_try_again_beside_us(
    cloud: tuple[str, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "TRIES", 4)
    with cloud[1].spoilt({"busy": 1.0}):
        with pytest.raises(SluiceError, match=r"\(4 tries in "):
            write_bytes(f"{cloud[0]}/busy", "a", b"x")
        assert len(cloud[1].seen) == 4


def test_a_stage_on_a_bad_network_ends_with_the_same_bytes(
    cloud: tuple[str, Proxy], tmp_path: Path
) -> None:
    expected, url = ingest(str(tmp_path / "store"), 4), f"{cloud[0]}/stage"
    with cloud[1].spoilt(RATES, seed=1):
        made = ingest(url, 4)
        assert images_of(made) == images_of(expected)
    assert len(cloud[1].faults()) > 2
    assert made.manifest == expected.manifest and artifacts.verify(made) == []
    ingest(url, 4)
    left = {name.split("/stage/")[1] for name in filesystem.list_files(url)}
    assert left == {file.path for part in made.parts for file in part.files} | {
        "manifest.json",
        "timing.json",
    }
