"""Images are read where they lie: in a shard's own tar, in a sibling's, in anybody's."""

import io
import shutil
import tarfile
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import filesystem
from infra.dataset import ShardWriter, read_images, read_samples, read_table, sample_key
from infra.errors import SluiceError
from infra.filesystem import join, write_bytes
from infra.samples import Tar, locate, read_tars, shorten
from infra.shards import TarWriter, read_tar

PLACES = ("own", "one", "two", "none")
IMAGES = [bytes([65 + number]) * (400 + 300 * number) for number in range(4)]


def foreign_tar(images: list[bytes], names: str = "{:05d}") -> bytes:
    """A tar as others write it: pax headers before each member, other members between."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, image in enumerate(images):
            for extension, data in (("jpg", image), ("txt", b"a caption"), ("json", b"{}")):
                info = tarfile.TarInfo(f"{names.format(number)}.{extension}")
                info.size, info.mtime = len(data), 1.5
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def row_of(number: int, **more: Any) -> dict[str, Any]:
    caption = f"caption {number}"
    return {"row": number, "status": "ok", "caption": caption, "format": "jpg", **more}


def refer(folder: str, url: str, shard: int = 0) -> ShardWriter:
    """A shard whose every image lies in the tar at `url`."""
    with ShardWriter(folder, shard) as writer, filesystem.open_read(url) as file:
        for number, sample in enumerate(read_tar(file)):
            place = {"tar": writer.refer(url), "offset": sample.offsets["jpg"], "key": sample.key}
            writer.add(row_of(number, bytes=len(sample.members["jpg"]), **place))
    return writer


def images(folder: str, shard: int = 0) -> list[bytes]:
    return [sample.image for sample in read_samples(folder, shard)]


@pytest.mark.parametrize("scheme", ["disk", "memory"])
def test_a_tar_is_used_where_it_is(scheme: str, tmp_path: Path) -> None:
    base = str(tmp_path) if scheme == "disk" else f"memory://{uuid.uuid4().hex}"
    write_bytes(join(base, "in"), "a.tar", foreign_tar(IMAGES))
    folder = join(base, "store/pool/v1")
    writer = refer(folder, join(base, "in/a.tar"))
    assert [file.path for file in writer.files] == ["rows/00000.parquet"]
    assert not filesystem.exists(join(folder, "shards"))
    samples = list(read_samples(folder, 0))
    assert [sample.image for sample in samples] == IMAGES
    assert [(sample.row, sample.extension) for sample in samples] == [(n, "jpg") for n in range(4)]
    assert samples[2].caption == "caption 2"
    assert read_images(folder, 0, [3, 1, 3, 99]) == {1: IMAGES[1], 3: IMAGES[3]}


@pytest.mark.parametrize("names", ["{:05d}", "ü{:05d}", "long" * 30 + "{:05d}", "a/b.c/{:03d}"])
def test_names_of_any_length_are_found_again(names: str, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(foreign_tar(IMAGES, names))
    folder = str(tmp_path / "store/pool/v1")
    refer(folder, str(tmp_path / "a.tar"))
    assert images(folder) == IMAGES


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.binary(max_size=3000))))
def test_any_mix_of_places_is_read_in_row_order(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[str, bytes]]
) -> None:
    base = tmp_path_factory.mktemp("mix")
    offsets: dict[int, int] = {}
    for name in ("one", "two"):
        with (base / f"{name}.tar").open("wb") as file:
            tar = TarWriter(file)
            for row, (place, image) in enumerate(plan):
                if place == name:
                    offsets[row] = tar.add(f"{row}.jpg", image)
            tar.close()
    folder = str(base / "store/pool/v1")
    with ShardWriter(folder, 5) as writer:
        for row, (place, image) in enumerate(plan):
            if place in ("one", "two"):
                tar_of = {"tar": writer.refer(str(base / f"{place}.tar")), "offset": offsets[row]}
                writer.add(row_of(row, key=str(row), bytes=len(image), **tar_of))
            elif place == "own":
                writer.add(row_of(row), image)
            else:
                writer.add({"row": row, "status": "rejected", "reason": "missing_image"})
    expected = {row: image for row, (place, image) in enumerate(plan) if place != "none"}
    assert {sample.row: sample.image for sample in read_samples(folder, 5)} == expected
    assert read_images(folder, 5, range(len(plan))) == expected
    places = read_table(join(folder, "rows/00005.parquet"), ["tar", "offset"]).to_pylist()
    assert [place["tar"] is None for place in places] == [place == "none" for place, _ in plan]


def test_tars_of_one_store_move_with_it(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with ShardWriter(str(store / "pool/v1"), 0) as writer:
        writer.add(row_of(0), IMAGES[0])
    refer(str(store / "pool/v2"), str(store / "pool/v1/shards/00000.tar"))
    assert read_tars(str(store / "pool/v2"), "00000")[0].url == "../v1/shards/00000.tar"
    shutil.move(store, tmp_path / "elsewhere")
    assert images(str(tmp_path / "elsewhere/pool/v2")) == IMAGES[:1]


@pytest.mark.parametrize(
    ("folder", "url", "kept"),
    [
        ("/s/pool/v2", "/s/pool/v1/shards/0.tar", "../v1/shards/0.tar"),
        ("/s/pool/v2", "/s/demo/v1/a.tar", "../../demo/v1/a.tar"),
        ("/s/pool/v2", "/data/a.tar", "/data/a.tar"),
        ("/s/pool/v2", "/stray/a.tar", "/stray/a.tar"),
        ("/s/pool/v2", "memory://s/pool/v1/a.tar", "memory://s/pool/v1/a.tar"),
        ("memory://s/pool/v2", "memory://s/pool/v1/a.tar", "../v1/a.tar"),
        ("memory://s/pool/v2", "/s/pool/v1/a.tar", "/s/pool/v1/a.tar"),
    ],
)
def test_urls_are_relative_inside_a_store(folder: str, url: str, kept: str) -> None:
    assert shorten(folder, url) == kept
    assert locate(folder, kept) == url


def test_a_tar_that_is_gone_or_changed_is_named(tmp_path: Path) -> None:
    tar, folder = tmp_path / "a.tar", str(tmp_path / "store/pool/v1")
    data = foreign_tar(IMAGES)
    tar.write_bytes(data)
    refer(folder, str(tar))
    tar.write_bytes(data + bytes(10240))
    with pytest.raises(SluiceError, match=r"a\.tar has changed since it was ingested: it has"):
        images(folder)
    tar.write_bytes(foreign_tar(IMAGES[::-1]))
    with pytest.raises(SluiceError, match=r"a\.tar is damaged or has changed .* row 0 "):
        images(folder)
    with pytest.raises(SluiceError, match=r"a\.tar is damaged or has changed .* row 2 "):
        read_images(folder, 0, [2])
    tar.unlink()
    for read in (lambda: images(folder), lambda: read_images(folder, 0, [1])):
        with pytest.raises(SluiceError, match=r"a\.tar is gone") as caught:
            read()
        assert "put it back" in caught.value.way_out


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 10239), st.integers(0, 255)), min_size=1, max_size=20))
def test_damage_is_an_error_or_leaves_what_was_there(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    data = bytearray(foreign_tar(IMAGES))
    (folder / "a.tar").write_bytes(data)
    version = str(folder / "store/pool/v1")
    refer(version, str(folder / "a.tar"))
    for place, value in flips:
        data[place] = value
    (folder / "a.tar").write_bytes(data)
    try:
        found = images(version)
    except SluiceError:
        return
    assert [len(image) for image in found] == [len(image) for image in IMAGES]


def test_a_shard_that_fails_leaves_nothing(tmp_path: Path) -> None:
    writer = ShardWriter(str(tmp_path), 0)
    with pytest.raises(RuntimeError), writer:
        writer.add(row_of(0), IMAGES[0])
        raise RuntimeError
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_shard_without_images_has_no_tar(tmp_path: Path) -> None:
    with ShardWriter(str(tmp_path), 0) as writer:
        writer.add({"row": 0, "status": "rejected", "reason": "http_404"})
    assert [file.path for file in writer.files] == ["rows/00000.parquet"]
    assert images(str(tmp_path)) == []
    with ShardWriter(str(tmp_path), 1) as writer:
        pass
    assert read_table(join(str(tmp_path), "rows/00001.parquet")).num_rows == 0


def test_more_rows_than_one_batch_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.dataset.ROWS_PER_BATCH", 3)
    with ShardWriter(str(tmp_path), 2) as writer:
        for row in range(10):
            writer.add(row_of(row), bytes([row]))
    assert images(str(tmp_path), 2) == [bytes([row]) for row in range(10)]
    keys = read_table(join(str(tmp_path), "rows/00002.parquet"), ["key"])["key"].to_pylist()
    assert keys == [sample_key(2, row) for row in range(10)]
    assert writer.tars == [Tar("shards/00002.tar")]


def test_a_shard_has_so_many_tars_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"")
    with ShardWriter(str(tmp_path / "v"), 0) as writer:
        for number in range(127):
            shutil.copy(tmp_path / "a.tar", tmp_path / f"{number}.tar")
            assert writer.refer(str(tmp_path / f"{number}.tar")) == number
        assert writer.refer(str(tmp_path / "5.tar")) == 5
        with pytest.raises(SluiceError, match="more than 127 tars"):
            writer.refer(str(tmp_path / "a.tar"))
