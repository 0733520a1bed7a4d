"""Artifacts exist whole or not at all, balance, and can be checked afterwards."""

import json
import uuid
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import artifacts, filesystem
from infra.artifacts import MANIFEST, Artifact, Part, commit, load, record_part, verify
from infra.errors import SluiceError
from infra.filesystem import join, write_bytes
from tests.infra.contenders import SPEC, commit_content


@pytest.fixture(params=["disk", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/scores"
    return str(tmp_path / "scores")


def do_part(url: str, name: str, data: bytes = b"data") -> Part:
    file = write_bytes(url, f"columns/{name}.bin", data + name.encode())
    part = Part(name, (file,), rows=5, kept=3, dropped={"blank": 2}, extra={"mean": 0.25})
    record_part(url, part, seconds=2.0, cpu_seconds=1.5)
    return part


def test_the_digest_of_a_known_spec_never_changes() -> None:
    assert SPEC.digest == "0470e09a35b8a6b5"


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "dataset"},
        {"stage": "other"},
        {"settings": {"threshold": 0.6}},
        {"parents": ()},
        {"code": 2},
    ],
)
def test_everything_in_a_spec_is_in_its_digest(changed: dict[str, object]) -> None:
    assert replace(SPEC, **changed).digest != SPEC.digest  # type: ignore[arg-type]


def test_an_artifact_is_there_only_once_committed(url: str) -> None:
    assert load(url) is None
    parts = [do_part(url, name) for name in ("00001", "00000")]
    assert load(url) is None
    made = commit(url, SPEC, {"recall": 0.99})
    found = load(url)
    assert found == made
    assert found is not None
    assert found.digest == SPEC.digest
    assert found.kind == "scores"
    assert found.settings == {"threshold": 0.5}
    assert found.parts == sorted(parts, key=lambda part: part.name)
    assert found.totals == {
        "parts": 2,
        "rows": 10,
        "kept": 6,
        "dropped": {"blank": 4},
        "bytes": sum(part.files[0].bytes for part in parts),
    }
    assert found.manifest["extra"] == {"recall": 0.99}
    assert found.timing() == {"seconds": 4.0, "cpu_seconds": 3.0}


def test_a_commit_sweeps_up(url: str) -> None:
    do_part(url, "00000")
    write_bytes(url, f"{filesystem.TEMPORARY}/left-by-a-killed-writer", b"half")
    commit(url, SPEC)
    left = [file.split("/scores/")[1] for file in filesystem.list_files(url)]
    assert left == ["columns/00000.bin", "manifest.json", "timing.json"]


def test_of_two_commits_the_first_stands(url: str) -> None:
    do_part(url, "00000")
    first = commit(url, SPEC)
    do_part(url, "00000", b"other bytes, as if the stage were not pure")
    second = commit(url, SPEC)
    assert second == first
    assert second.timing() == first.timing() == {"seconds": 2.0, "cpu_seconds": 1.5}


def test_committers_at_the_same_time_agree(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        for round_ in range(5):
            url = str(tmp_path / str(round_))
            for shard in range(3):
                do_part(url, f"{shard:05d}")
            contents = list(pool.map(commit_content, [url] * 3))
            assert len(set(contents)) == 1
            made = load(url)
            assert made is not None
            assert verify(made) == []
            assert made.totals["parts"] == 3


def test_content_is_of_bytes_alone_and_not_of_order_place_or_time(tmp_path: Path) -> None:
    contents = []
    for place, names in (("here", ("00000", "00001")), ("there", ("00001", "00000"))):
        url = str(tmp_path / place)
        for number, name in enumerate(names):
            part = do_part(url, name)
            record_part(url, part, seconds=number, cpu_seconds=number)
        contents.append(commit(url, SPEC).content)
    other = str(tmp_path / "other")
    do_part(other, "00000", b"changed")
    do_part(other, "00001")
    contents.append(commit(other, SPEC).content)
    assert contents[0] == contents[1] != contents[2]


def test_a_killed_run_keeps_its_finished_parts(url: str) -> None:
    part = do_part(url, "00003")
    recorded = artifacts.recorded_parts(url)
    assert recorded.parts == [part]
    assert recorded.timing == {"seconds": 2.0, "cpu_seconds": 1.5}


def committed(url: str) -> Artifact:
    for name in ("00000", "00001"):
        do_part(url, name)
    return commit(url, SPEC)


def test_whole_files_are_verified(url: str) -> None:
    assert verify(committed(url)) == []


def test_a_changed_file_is_found(url: str) -> None:
    made = committed(url)
    fs, path = filesystem.resolve(join(url, "columns/00001.bin"))
    fs.pipe_file(path, b"tampered with")
    assert verify(made) == ["columns/00001.bin"]


def test_a_missing_file_is_found(url: str) -> None:
    made = committed(url)
    fs, path = filesystem.resolve(join(url, "columns/00000.bin"))
    fs.rm(path)
    assert verify(made) == ["columns/00000.bin"]


def test_a_changed_manifest_is_found(tmp_path: Path) -> None:
    url = str(tmp_path)
    committed(url)
    manifest = tmp_path / MANIFEST
    text = manifest.read_text()
    manifest.write_text(text.replace('"threshold": 0.5', '"threshold": 0.1'))
    found = load(url)
    assert found is not None
    assert found.settings == {"threshold": 0.1}
    assert verify(found) == [MANIFEST]


def test_hashes_changed_together_with_a_file_are_found(tmp_path: Path) -> None:
    url = str(tmp_path)
    made = committed(url)
    old = made.parts[0].files[0]
    new = write_bytes(url, old.path, b"forged")
    manifest = tmp_path / MANIFEST
    manifest.write_text(manifest.read_text().replace(old.sha256, new.sha256))
    found = load(url)
    assert found is not None
    assert verify(found) == [MANIFEST]


@given(
    rows=st.integers(0, 50),
    kept=st.integers(0, 50),
    dropped=st.dictionaries(st.sampled_from(["blank", "small", "corrupt"]), st.integers(0, 20)),
)
def test_a_part_balances_or_does_not_exist(rows: int, kept: int, dropped: dict[str, int]) -> None:
    if rows == kept + sum(dropped.values()):
        part = Part("00000", (), rows, kept, dropped)
        assert Part.from_json(json.loads(json.dumps(part.to_json()))) == part
    else:
        with pytest.raises(SluiceError, match="part 00000 does not balance"):
            Part("00000", (), rows, kept, dropped)


def test_a_dataset_without_a_shard_is_not_committed(url: str) -> None:
    with pytest.raises(SluiceError, match="nothing to commit"):
        commit(url, replace(SPEC, kind="dataset"))
    assert load(url) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"format": 1', "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b'{"format": 99}', "has format 99"),
        (b"[]", "has format None"),
    ],
)
def test_a_manifest_that_is_none_is_named(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / MANIFEST).write_bytes(text)
    with pytest.raises(SluiceError, match=message) as caught:
        load(str(tmp_path))
    assert str(tmp_path / MANIFEST) in caught.value.what
    assert caught.value.way_out
