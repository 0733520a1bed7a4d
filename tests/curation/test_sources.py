"""Each kind of source: what it lists, what it yields for good and bad records."""

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from curation.settings import SourceSettings
from curation.sources import Record, open_source
from curation.sources.base import braces, labels
from infra.errors import SluiceError


def picture(colour: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def tar_bytes(members: list[tuple[str, bytes]], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def samples(count: int) -> list[tuple[str, bytes]]:
    members = []
    for index in range(count):
        members += [
            (f"{index:04d}.png", picture(index)),
            (f"{index:04d}.txt", b"caption %d" % index),
        ]
    return members


def records(settings: SourceSettings, rows_per_shard: int = 100) -> list[Record]:
    units = open_source(settings).units(rows_per_shard)
    return [record for unit in units for record in unit.records()]


def from_tar(folder: Path, data: bytes, name: str = "00000.tar") -> list[Record]:
    (folder / name).write_bytes(data)
    return records(SourceSettings(tars=str(folder / name)))


def reasons(found: list[Record]) -> list[str | None]:
    return [record.reason for record in found]


# ---- settings ----


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


# ---- listing ----


def test_labels_do_not_depend_on_where_the_files_lie() -> None:
    assert labels(["/a/pool/0.tar", "/a/pool/1.tar"]) == ["pool/0.tar", "pool/1.tar"]
    assert labels(["/b/c/pool/x/0.tar", "/b/c/pool/y/0.tar"]) == ["pool/x/0.tar", "pool/y/0.tar"]
    assert labels(["/pool/0.tar"]) == ["pool/0.tar"]
    assert labels(["/0.tar"]) == ["0.tar"]


def test_braces() -> None:
    assert braces("s/{08..11}.tar") == ["s/08.tar", "s/09.tar", "s/10.tar", "s/11.tar"]
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


# ---- tars ----


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


# ---- Parquet ----


def write_parquet(path: Path, columns: dict[str, Any], group: int = 1000) -> SourceSettings:
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return SourceSettings(parquet=str(path))


def columns(count: int) -> dict[str, Any]:
    return {
        "jpg": pa.array([b"image %d" % index for index in range(count)], pa.binary()),
        "caption": [f"caption {index}" for index in range(count)],
    }


def test_rows_of_a_parquet_file(tmp_path: Path) -> None:
    extra = {"url": ["u0", None], "uid": ["a" * 32, "b"], "nsfw": [0.5, None], "raw": [b"0", b"1"]}
    source = write_parquet(tmp_path / "p.parquet", columns(2) | extra)
    label = f"{tmp_path.name}/p.parquet"
    assert records(source) == [
        Record(f"{label}#0", b"image 0", "caption 0", "u0", "a" * 32, {"nsfw": 0.5}),
        Record(f"{label}#1", b"image 1", "caption 1", None, "b", {"nsfw": None}),
    ]


def test_other_names_and_hugging_face_images(tmp_path: Path) -> None:
    images = [{"bytes": b"x", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, None]
    write_parquet(tmp_path / "p.parquet", {"image": images, "TEXT": ["a", "b", "c"]})
    source = SourceSettings(parquet=str(tmp_path), image="image", caption="TEXT")
    found = records(source)
    assert [record.image for record in found] == [b"x", None, None]
    assert reasons(found) == [None, "missing_image", "missing_image"]


@pytest.mark.parametrize("role", ["image", "caption", "url", "uid"])
def test_a_missing_column_is_named_with_those_there_are(role: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "p.parquet", columns(2))
    source = SourceSettings.model_validate({"parquet": str(tmp_path), role: "picture"})
    with pytest.raises(
        SluiceError, match=f"no column 'picture' for the {role}; it has jpg, caption"
    ):
        open_source(source).units(10)


def test_a_column_of_a_wrong_type_is_named(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "p.parquet", {"jpg": ["path.jpg"], "caption": ["a"]})
    with pytest.raises(SluiceError, match="image column 'jpg' holds string, not bytes"):
        open_source(source).units(10)


def test_nulls_and_blanks(tmp_path: Path) -> None:
    table = {
        "jpg": pa.array([None, b"x", b"y", b"z"], pa.binary()),
        "caption": ["a", None, " ", "d"],
    }
    found = records(write_parquet(tmp_path / "p.parquet", table))
    assert reasons(found) == ["missing_image", "missing_caption", "missing_caption", None]


def test_text_that_is_no_utf8_costs_one_row(tmp_path: Path) -> None:
    offsets = b"".join(number.to_bytes(4, "little") for number in range(4))
    captions = pa.StringArray.from_buffers(3, pa.py_buffer(offsets), pa.py_buffer(b"a\xffc"))
    found = records(write_parquet(tmp_path / "p.parquet", columns(3) | {"caption": captions}))
    assert reasons(found) == [None, "caption_not_utf8", None]
    assert [record.caption for record in found] == ["a", "\ufffd", "c"]


@pytest.mark.parametrize(
    ("group", "rows_per_shard", "expected"),
    [
        (10, 25, [20, 25]),  # runs of whole row groups
        (10, 10, [10, 10, 10, 10, 5]),
        (30, 12, [12, 12, 6, 12, 3]),  # a row group larger than a shard is cut
        (1000, 1000, [45]),
    ],
)
def test_shards_of_a_parquet_file(
    group: int, rows_per_shard: int, expected: list[int], tmp_path: Path
) -> None:
    source = write_parquet(tmp_path / "p.parquet", columns(45), group)
    units = open_source(source).units(rows_per_shard)
    found = [list(unit.records()) for unit in units]
    assert [len(piece) for piece in found] == expected
    captions = [record.caption for piece in found for record in piece]
    assert captions == [f"caption {index}" for index in range(45)]
    assert found[-1][-1].source.endswith("#44")


def test_a_damaged_row_group_keeps_its_count(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "p.parquet", columns(30), 10)
    data = bytearray((tmp_path / "p.parquet").read_bytes())
    second = pq.ParquetFile(tmp_path / "p.parquet").metadata.row_group(1).column(0)
    start = second.dictionary_page_offset or second.data_page_offset
    data[start : start + second.total_compressed_size] = b"\xff" * second.total_compressed_size
    (tmp_path / "p.parquet").write_bytes(data)
    assert reasons(records(source)) == [None] * 10 + ["damaged_row_group"] * 10 + [None] * 10


@pytest.mark.parametrize("data", [b"", b"PAR1", b"not parquet" * 100])
def test_a_file_that_is_no_parquet_is_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(data)
    with pytest.raises(SluiceError, match=r"p\.parquet is no whole Parquet file"):
        open_source(SourceSettings(parquet=str(tmp_path))).units(10)


def test_parquet_without_rows(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "p.parquet", columns(0))
    with pytest.raises(SluiceError, match="have no rows"):
        open_source(source).units(10)


def test_a_file_that_changed_after_it_was_listed(tmp_path: Path) -> None:
    units = open_source(write_parquet(tmp_path / "p.parquet", columns(30), 10)).units(10)
    write_parquet(tmp_path / "p.parquet", columns(10), 10)
    with pytest.raises(SluiceError, match="has changed since the source was listed"):
        list(units[-1].records())


# ---- folder ----


def test_an_image_folder(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    (root / "cats").mkdir(parents=True)
    for name in ("cats/b.png", "a.JPG", "lonely.png"):
        (root / name).write_bytes(picture())
    (root / "a.txt").write_text("an a\n")
    (root / "cats/b.txt").write_text("a b")
    (root / "cats/b.json").write_text('{"url": "u", "breed": "tabby"}')
    (root / "Thumbs.db").write_bytes(b"")
    (root / "words.txt").write_text("no picture")
    found = records(SourceSettings(folder=str(root)))
    assert [(record.source, record.reason) for record in found] == [
        ("pictures/a", None),
        ("pictures/cats/b", None),
        ("pictures/lonely", "missing_caption"),
        ("pictures/words", "missing_image"),
    ]
    assert (found[1].url, found[1].meta) == ("u", {"breed": "tabby"})


def test_two_images_of_one_name_in_a_folder(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.jpg", "b.JPG"):
        (tmp_path / name).write_bytes(b"x")
    assert reasons(records(SourceSettings(folder=str(tmp_path)))) == ["two_images", "two_images"]


def test_a_folder_is_cut_into_shards(tmp_path: Path) -> None:
    for index in range(7):
        (tmp_path / f"{index}.png").write_bytes(picture(index))
        (tmp_path / f"{index}.txt").write_text("a")
    units = open_source(SourceSettings(folder=str(tmp_path))).units(3)
    assert [len(list(unit.records())) for unit in units] == [3, 3, 1]


def test_a_file_that_vanishes_is_a_row(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(picture())
        (tmp_path / f"{name}.txt").write_text("a")
    unit = open_source(SourceSettings(folder=str(tmp_path))).units(3)[0]
    (tmp_path / "a.png").unlink()
    assert reasons(list(unit.records())) == ["unreadable_file", None]


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
