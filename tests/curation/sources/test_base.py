"""Settings of sources, and what they list."""

from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from pydantic import ValidationError

from curation.settings import SourceSettings
from curation.sources import open_source
from curation.sources.base import braces, labels
from infra.errors import SluiceError
from tests.curation.sources.made import (
    from_tar,
    reasons,
    records,
    samples,
    tar_bytes,
    write_parquet,
)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tars": "a", "folder": "b"},
        {"tars": " "},
        {"tars": "a", "caption": "text"},
        {"folder": "a", "image": "jpg"},
        {"tarballs": "a"},
    ],
)
def test_a_source_is_exactly_one_kind(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        SourceSettings.model_validate(fields)


def test_kind_and_location() -> None:
    source = SourceSettings(parquet="s3://bucket/*.parquet", caption="TEXT")
    assert (source.kind, source.location) == ("parquet", "s3://bucket/*.parquet")


def test_labels_do_not_depend_on_where_the_files_lie() -> None:
    assert labels(["/a/pool/0.tar", "/a/pool/1.tar"]) == ["pool/0.tar", "pool/1.tar"]
    assert labels(["/b/c/pool/x/0.tar", "/b/c/pool/y/0.tar"]) == ["pool/x/0.tar", "pool/y/0.tar"]
    assert labels(["/pool/0.tar"]) == ["pool/0.tar"]
    assert labels(["/0.tar"]) == ["0.tar"]


def test_braces() -> None:
    assert braces("s/{08..11}.tar") == ["s/08.tar", "s/09.tar", "s/10.tar", "s/11.tar"]
    assert braces("{0..10}")[::10] == ["0", "10"]
    assert braces("{a,b}/{1..2}") == ["a/1", "a/2", "b/1", "b/2"]
    assert braces("plain-{x}.tar") == ["plain-{x}.tar"]


def test_a_pattern_a_folder_and_braces_list_the_same_tars(tmp_path: Path) -> None:
    for index in (1, 0, 2):
        (tmp_path / f"{index}.tar").write_bytes(tar_bytes(samples(1)))
        (tmp_path / f"{index}_stats.json").write_text("{}")
    (tmp_path / ".hidden.tar").write_bytes(b"")
    expected = [str(tmp_path / f"{index}.tar") for index in range(3)]
    for location in (tmp_path, tmp_path / "*.tar", tmp_path / "{0..2}.tar"):
        assert open_source(SourceSettings(tars=str(location))).files() == expected


@pytest.mark.parametrize("kind", ["tars", "parquet", "folder"])
@pytest.mark.parametrize("name", ["nowhere", "nowhere/*.tar", "."])
def test_a_source_without_files_is_named(kind: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(SluiceError, match="no file at") as error:
        open_source(SourceSettings.model_validate({kind: str(tmp_path / name)})).units(10)
    assert str(tmp_path) in error.value.what
    assert kind in error.value.way_out


def test_a_command_is_no_source() -> None:
    with pytest.raises(SluiceError, match="would run a command"):
        open_source(SourceSettings(tars="pipe:cat x.tar")).units(10)


def test_any_fsspec_url() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/sources/pool/0.tar", tar_bytes(samples(2)))
    found = records(SourceSettings(tars="memory://sources/pool/*.tar"))
    assert [record.source for record in found] == ["pool/0.tar#0000", "pool/0.tar#0001"]


def test_members_over_the_limit_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("infra.shards", "curation.sources.folder", "curation.sources.parquet"):
        monkeypatch.setattr(f"{module}.MEMBER_LIMIT", 100)
    big = bytes(101)
    data = tar_bytes([("0.png", big), ("0.txt", b"a"), ("1.png", b"x"), ("1.txt", b"b")])
    assert reasons(from_tar(tmp_path, data)) == ["member_too_large", None]
    (tmp_path / "f").mkdir()
    (tmp_path / "f/a.png").write_bytes(big)
    assert reasons(records(SourceSettings(folder=str(tmp_path / "f")))) == ["member_too_large"]
    table = {"jpg": pa.array([big, b"x"], pa.binary()), "caption": ["a", "b"]}
    found = records(write_parquet(tmp_path / "p.parquet", table))
    assert reasons(found) == ["member_too_large", None]
