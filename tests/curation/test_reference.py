"""Existing tars are used where they are: what is named, what is copied, and what goes wrong."""

import gzip
import json
from pathlib import Path

import pytest

from curation.ingest import IngestWork, ingest_draft, ingest_items
from curation.settings import SourceSettings
from curation.sources import tars
from infra.artifacts import Artifact, verify
from infra.dataset import Dataset
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from infra.runner import InlineRunner
from infra.samples import read_tars
from infra.shards import read_tar
from infra.stage import run_stage
from tests.curation.sources.made import picture, samples, tar_bytes


def run(store: Path, source: SourceSettings) -> Dataset:
    draft = ingest_draft(str(store), "pool", [source], "as it is")
    work = IngestWork(draft.url)
    items = ingest_items([source])
    made: Artifact = run_stage("i", {"": draft}, items, work, InlineRunner(), SilentDisplay())[""]
    assert verify(made) == []
    return Dataset(made)


def images(dataset: Dataset) -> list[bytes]:
    return [sample.image for shard in dataset.shards for sample in dataset.samples(shard)]


def test_a_plain_tar_is_named_and_not_copied(tmp_path: Path) -> None:
    tar = tmp_path / "in" / "00000.tar"
    tar.parent.mkdir()
    tar.write_bytes(tar_bytes([*samples(2), ("bad.txt", b"no picture"), *samples(4)[4:]]))
    dataset = run(tmp_path / "store", SourceSettings(tars=str(tar)))
    assert images(dataset) == [picture(number) for number in range(4)]
    assert not (Path(dataset.url) / "shards").exists()
    assert [found.url for found in read_tars(dataset.url, "00000")] == [str(tar)]
    rows = dataset.rows(0, ["key", "reason", "tar", "offset"]).to_pylist()
    assert [row["key"] for row in rows] == ["0000", "0001", "bad", "0002", "0003"]
    assert [row["tar"] for row in rows] == [0, 0, None, 0, 0]
    with tar.open("rb") as file:
        found = [sample.offsets.get("png") for sample in read_tar(file)]
    assert [row["offset"] for row in rows] == found


@pytest.mark.parametrize("how", ["compressed", "asked for"])
def test_what_is_copied(how: str, tmp_path: Path) -> None:
    data = tar_bytes(samples(3))
    name = "0.tar" if how == "asked for" else "0.tar.gz"
    (tmp_path / name).write_bytes(data if how == "asked for" else gzip.compress(data))
    source = SourceSettings(tars=str(tmp_path / name), copy_samples=how == "asked for")
    dataset = run(tmp_path / "store", source)
    (tmp_path / name).unlink()
    assert images(dataset) == [picture(number) for number in range(3)]
    assert [tar.url for tar in read_tars(dataset.url, "00000")] == ["shards/00000.tar"]
    assert dataset.rows(0)["key"].to_pylist() == [f"{row:015d}" for row in range(3)]


def test_copying_is_another_version() -> None:
    plain, copied = (SourceSettings(tars="x", copy_samples=copy) for copy in (False, True))
    digests = {ingest_draft("s", "pool", [source], "f").spec.digest for source in (plain, copied)}
    assert len(digests) == 2


def test_a_tar_that_changes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = tmp_path / "0.tar"
    tar.write_bytes(tar_bytes(samples(3)))

    def growing(file: object, extensions: object) -> object:
        yield from read_tar(file, extensions)  # type: ignore[arg-type]
        with tar.open("ab") as more:
            more.write(bytes(512))

    monkeypatch.setattr(tars, "read_tar", growing)
    with pytest.raises(SluiceError, match=r"0\.tar changed while it was read"):
        run(tmp_path / "store", SourceSettings(tars=str(tar)))


def test_a_tar_that_is_gone_is_named_when_it_is_read(tmp_path: Path) -> None:
    tar = tmp_path / "0.tar"
    tar.write_bytes(tar_bytes(samples(3)))
    dataset = run(tmp_path / "store", SourceSettings(tars=str(tar)))
    tar.unlink()
    with pytest.raises(SluiceError, match=r"0\.tar is gone"):
        images(dataset)


def test_a_member_that_two_headers_tell_is_copied_where_one_would_mislead(tmp_path: Path) -> None:
    """A pax header may give a size that the member's own header does not have."""
    data = tar_bytes([("0.png", picture()), ("0.txt", b"a caption")])
    size = len(picture())
    record = f"size={size}\n"
    record = f"{len(record) + 3} {record}".encode()
    header = bytearray(data[:512])
    header[124:136] = b"%011o\0" % 0
    pax = bytearray(data[:512])
    pax[156:157], pax[124:136] = b"x", b"%011o\0" % len(record)
    for block in (header, pax):
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    changed = bytes(pax) + record.ljust(512, b"\0") + bytes(header) + data[512:]
    (tmp_path / "0.tar").write_bytes(changed)
    dataset = run(tmp_path / "store", SourceSettings(tars=str(tmp_path / "0.tar")))
    assert images(dataset) == [picture()]
    assert [tar.url for tar in read_tars(dataset.url, "00000")] == ["shards/00000.tar"]


def test_numbers_of_a_sidecar_are_kept_as_they_are(tmp_path: Path) -> None:
    facts = {"big": 2**70, "hash": -(2**63), "score": 0.1, "deep": [{"id": 2**65}]}
    members = [*samples(1), ("0000.json", json.dumps(facts).encode())]
    (tmp_path / "0.tar").write_bytes(tar_bytes(members))
    dataset = run(tmp_path / "store", SourceSettings(tars=str(tmp_path / "0.tar")))
    assert json.loads(dataset.rows(0)["meta"][0].as_py()) == facts
