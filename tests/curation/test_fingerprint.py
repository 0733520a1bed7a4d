"""The name of what a source holds: asked once of an object store, hashed once on a disk."""

import hashlib
import os
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from curation import fingerprint
from curation.fingerprint import REMEMBERED, file_states, source_fingerprint
from curation.settings import SourceSettings
from infra import filesystem
from infra.errors import SluiceError


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three files that were last changed a minute ago."""
    monkeypatch.setattr(fingerprint, "WORTH", 1)
    (tmp_path / "in").mkdir()
    paths = [tmp_path / "in" / f"{number}.tar" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(b"tar %d" % number)
        age(path)
    return [str(path) for path in paths]


def age(path: Path) -> None:
    then = path.stat().st_mtime - 60
    os.utime(path, (then, then))


def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    plain = filesystem.open_read
    monkeypatch.setattr(filesystem, "open_read", lambda url: names.append(url) or plain(url))
    return names


def test_a_file_is_hashed_once(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = str(tmp_path / "store")
    first, read = file_states(files, store), opened(monkeypatch)
    assert first == [(5, hashlib.sha256(b"tar %d" % number).hexdigest()) for number in range(3)]
    assert file_states(files, store) == first
    assert read == []
    Path(files[1]).write_bytes(b"rat 1")
    age(Path(files[1]))
    os.utime(files[1], (1e9, 1e9))
    assert file_states(files, store)[1] == (5, hashlib.sha256(b"rat 1").hexdigest())
    assert read == [files[1]]


def test_a_file_just_changed_is_not_remembered(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = str(tmp_path / "store")
    Path(files[0]).write_bytes(b"fresh")
    file_states(files, store)
    read = opened(monkeypatch)
    file_states(files, store)
    assert read == [files[0]]


def test_a_store_that_cannot_be_written_or_read_changes_nothing(
    files: list[str], tmp_path: Path
) -> None:
    expected = file_states(files)
    (tmp_path / "file").write_bytes(b"")
    assert file_states(files, str(tmp_path / "file")) == expected
    store = tmp_path / "store"
    store.mkdir()
    for damage in (b"", b"[1]", b"{", b"\xff"):
        (store / REMEMBERED).write_bytes(damage)
        assert file_states(files, str(store)) == expected
    assert sorted(path.name for path in store.iterdir()) == [REMEMBERED]


def test_little_is_not_worth_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"little")
    age(tmp_path / "a.tar")
    file_states([str(tmp_path / "a.tar")], str(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_an_object_store_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fs, folder = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    for number in range(50):
        fs.pipe_file(f"{folder}/{number:02d}.tar", b"%d" % number)
    calls: list[str] = []
    for name in ("ls", "info"):
        plain = getattr(MemoryFileSystem, name)

        def counting(self: Any, *rest: Any, name: str = name, plain: Any = plain, **more: Any):
            calls.append(name)
            found = plain(self, *rest, **more)
            known = found if isinstance(found, list) else [found]
            for entry in known:
                if isinstance(entry, dict):
                    entry["ETag"] = hashlib.md5(entry["name"].encode()).hexdigest()
            return found

        monkeypatch.setattr(MemoryFileSystem, name, counting)
    read = opened(monkeypatch)
    states = file_states([f"memory://{folder}/{number:02d}.tar" for number in range(50)])
    assert len({tag for _, tag in states}) == 50
    assert (calls.count("ls"), calls.count("info"), read) == (1, 0, [])


def test_a_file_that_cannot_be_read_is_named(files: list[str], tmp_path: Path) -> None:
    Path(files[2]).unlink()
    (Path(files[2])).mkdir()
    source = SourceSettings(tars=str(tmp_path / "in/2.tar"))
    with pytest.raises(SluiceError, match="no file at"):
        source_fingerprint([source])
    with pytest.raises(SluiceError, match=r"cannot read .*2\.tar"):
        file_states(files)
