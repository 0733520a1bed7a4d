"""WebDataset tars: what good and bad ones yield."""

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from curation.settings import SourceSettings
from curation.sources import Record, open_source
from infra.errors import SluiceError
from tests.curation.sources.made import from_tar, picture, reasons, samples, tar_bytes


def test_a_sample_of_a_tar(tmp_path: Path) -> None:
    facts = {"key": "7", "url": "https://x/y.png", "uid": "A" * 32, "caption": "no", "nsfw": 0.5}
    members = [
        ("7.png", picture()),
        ("7.txt", b" a caption\n"),
        ("7.json", json.dumps(facts).encode()),
    ]
    assert from_tar(tmp_path, tar_bytes(members)) == [
        Record(
            f"{tmp_path.name}/00000.tar#7",
            image=picture(),
            caption="a caption",
            url="https://x/y.png",
            uid="A" * 32,
            meta={"nsfw": 0.5},
            key="7",
            tar=str(tmp_path / "00000.tar"),
            offset=512,
        )
    ]


def test_the_caption_may_stand_in_the_sidecar(tmp_path: Path) -> None:
    members = [("7.png", picture()), ("7.json", b'{"text": "datacomp"}')]
    assert from_tar(tmp_path, tar_bytes(members))[0].caption == "datacomp"


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"txt": b"a"}, "missing_image"),
        ({"json": b"{}"}, "missing_image"),
        ({"cls": b"1"}, "missing_image"),
        ({"png": b"x"}, "missing_caption"),
        ({"png": b"x", "txt": b" \n"}, "missing_caption"),
        ({"png": b"x", "jpg": b"y", "txt": b"a"}, "two_images"),
        ({"gif": b"x", "png": b"y", "txt": b"a"}, "two_images"),
        ({"png": b"x", "txt": b"\xff\xfea"}, "caption_not_utf8"),
        ({"png": b"x", "txt": b"a", "json": b"{"}, "bad_json"),
        ({"png": b"x", "txt": b"a", "json": b"[1]"}, "bad_json"),
        ({"png": b"x", "txt": b"a", "json": b"\xff"}, "bad_json"),
        ({"png": b"x", "txt": b"a", "json": b"[" * 100000}, "bad_json"),
        ({"png": b"x", "txt": b"a", "seg.png": b"mask"}, None),
        ({"png": b"x", "txt": "\ufeffa".encode()}, None),
    ],
)
def test_bad_samples_have_a_reason_and_cost_no_other(
    files: Mapping[str, bytes], reason: str | None, tmp_path: Path
) -> None:
    members = [*samples(1), *((f"bad.{name}", data) for name, data in files.items())]
    found = from_tar(tmp_path, tar_bytes([*members, ("z.png", picture()), ("z.txt", b"z")]))
    assert reasons(found) == [None, reason, None]


def test_one_extension_twice(tmp_path: Path) -> None:
    members = [("0.jpg", b"x"), ("0.jpg", b"y"), ("0.txt", b"a"), ("1.jpg", b"x"), ("1.txt", b"a")]
    members += [("1.txt", b"b")]
    assert reasons(from_tar(tmp_path, tar_bytes(members))) == ["two_images", "two_captions"]


def test_names_that_climb_out_are_only_names(tmp_path: Path) -> None:
    members = [("../../x.png", picture()), ("../../x.txt", b"a"), ("/etc/y.png", b"z")]
    found = from_tar(tmp_path, tar_bytes(members))
    assert reasons(found) == [None, "missing_caption"]
    assert list(tmp_path.iterdir()) == [tmp_path / "00000.tar"]


def test_links_and_devices_are_never_followed(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind in (("0.png", tarfile.SYMTYPE), ("f", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/hostname"
            tar.addfile(info)
        info = tarfile.TarInfo("0.txt")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"a"))
    assert reasons(from_tar(tmp_path, buffer.getvalue())) == ["linked_member"]


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    data = tar_bytes([("\udcff0.png", picture()), ("\udcff0.txt", b"a")])
    found = from_tar(tmp_path, data)
    assert reasons(found) == [None]
    assert found[0].source.encode()


def test_lone_surrogates_in_a_sidecar_can_be_written(tmp_path: Path) -> None:
    members = [("0.png", b"x"), ("0.json", b'{"caption": "a\\ud800", "url": "u\\udfff"}')]
    found = from_tar(tmp_path, tar_bytes(members))[0]
    assert (found.caption, found.url) == ("a?", "u?")


def test_a_tar_cut_inside_a_sample(tmp_path: Path) -> None:
    data = tar_bytes(samples(3))
    found = from_tar(tmp_path, data[: 4 * 1024 + 600])  # two samples, and half of the third
    assert reasons(found) == [None, None, "truncated_tar"]
    assert found[-1].source.endswith("#0002")


def test_a_tar_cut_between_two_members_of_a_sample(tmp_path: Path) -> None:
    found = from_tar(tmp_path, tar_bytes(samples(3))[: 5 * 1024])  # 0002.txt is lost
    assert reasons(found) == [None, None, "truncated_tar"]
    assert found[-1].image == picture(2)


def test_a_tar_cut_between_two_samples_says_that_more_may_be_missing(tmp_path: Path) -> None:
    found = from_tar(tmp_path, tar_bytes(samples(3))[: 4 * 1024])
    assert reasons(found) == [None, None, "truncated_tar"]
    assert found[-1].source.endswith("00000.tar, after 0001")


def test_a_damaged_header_costs_only_its_sample(tmp_path: Path) -> None:
    data = bytearray(tar_bytes(samples(4)))
    data[2 * 1024 + 10] ^= 0xFF  # the name of 0001.png
    found = from_tar(tmp_path, bytes(data))
    assert reasons(found) == [None, "damaged_tar", "missing_image", None, None]
    hole = bytearray(tar_bytes(samples(4)))
    hole[1024:5120] = bytes(4096)  # a download with a hole
    assert reasons(from_tar(tmp_path, bytes(hole)))[-1] is None


@pytest.mark.parametrize("data", [b"", b"<html>" * 200, b"\x1f\x8bno gzip", b"BZh9" + bytes(600)])
def test_a_tar_that_is_no_tar_is_one_row(data: bytes, tmp_path: Path) -> None:
    found = from_tar(tmp_path, data)
    assert reasons(found) == ["not_a_tar"]
    assert found[0].source == f"{tmp_path.name}/00000.tar"


def test_a_tar_without_members_is_one_row(tmp_path: Path) -> None:
    assert reasons(from_tar(tmp_path, tar_bytes([]))) == ["empty_tar"]


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_tars(mode: str, tmp_path: Path) -> None:
    data = tar_bytes(samples(3), mode)
    assert reasons(from_tar(tmp_path, data)) == [None] * 3
    assert reasons(from_tar(tmp_path, data[: len(data) // 2]))[-1] in ("truncated_tar", "not_a_tar")


def test_a_compressed_tar_with_a_wrong_checksum_says_so(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(tar_bytes(samples(3))))
    data[-8] ^= 1
    assert reasons(from_tar(tmp_path, bytes(data))) == [None, None, None, "truncated_tar"]


def test_hidden_members_are_no_samples(tmp_path: Path) -> None:
    mixed = [entry for pair in samples(2) for entry in ((f"./._{pair[0]}", b"mac"), pair)]
    assert reasons(from_tar(tmp_path, tar_bytes(mixed))) == [None, None]


def test_a_tar_that_vanishes_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(tar_bytes(samples(1)))
    unit = open_source(SourceSettings(tars=str(tmp_path / "*.tar"))).units(10)[0]
    (tmp_path / "0.tar").unlink()
    with pytest.raises(SluiceError, match=r"0\.tar is gone"):
        list(unit.records())
