"""Dataset versions: positions, identities, shards that others read, and how one is opened."""

import hashlib
import io
import json
import tarfile
import uuid
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import dataset, filesystem
from infra.artifacts import Artifact, Part, Spec, commit, record_part
from infra.dataset import (
    ROW_BITS,
    ROWS,
    index_id,
    make_uid,
    open_dataset,
    part_name,
    publish,
    read_samples,
    read_table,
    sample_key,
    shard_and_row,
    write_shard,
    write_table,
)
from infra.errors import SluiceError
from infra.filesystem import join

IMAGES: list[bytes | None] = [b"\xff\xd8first", None, b"\xff\xd8third"]
CAPTIONS = ["a cat", "a caption without a picture", "ein Kätzchen, <b>groß</b>"]


def make_rows(shard: int = 0) -> pa.Table:
    rows = []
    for row, (image, caption) in enumerate(zip(IMAGES, CAPTIONS, strict=True)):
        rows.append(
            {
                "uid": make_uid(None, caption, image),
                "shard": shard,
                "row": row,
                "status": "ok" if image else "rejected",
                "reason": None if image else "missing_image",
                "key": sample_key(shard, row),
                "source": f"pool.tar#{row}",
                "url": None,
                "caption": caption,
                "sha256": hashlib.sha256(image).hexdigest() if image else None,
                "bytes": len(image) if image else 0,
                "format": "jpg" if image else None,
                "width": 64,
                "height": 48,
                "meta": json.dumps({"concept": "cat"}),
            }
        )
    return pa.Table.from_pylist(rows, schema=ROWS)


def make_version(store: str, name: str = "pool", code: int = 1) -> Artifact:
    spec = Spec("dataset", "test", {"name": name}, code=code)
    url = join(store, name, spec.digest)
    for shard in (0, 1):
        files = write_shard(url, shard, make_rows(shard), IMAGES)
        part = Part(part_name(shard), tuple(files), 3, 2, {"missing_image": 1})
        record_part(url, part, 0.1, 0.1)
    return commit(url, spec)


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**ROW_BITS - 1))
def test_an_id_is_a_shard_and_a_row(shard: int, row: int) -> None:
    identifier = index_id(shard, row)
    assert 0 <= identifier < 2**63
    assert shard_and_row(identifier) == (shard, row)


@given(
    st.tuples(st.integers(0, 99_999), st.integers(0, 2**ROW_BITS - 1)),
    st.tuples(st.integers(0, 99_999), st.integers(0, 2**ROW_BITS - 1)),
)
def test_keys_sort_like_positions(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert (sample_key(*one) < sample_key(*other)) == (one < other)


def test_the_uid_of_a_sample_is_its_content() -> None:
    given_uid = "0123456789ABCDEF0123456789abcdef"
    assert make_uid("http://a", "cat", b"x", given_uid) == given_uid.lower()
    assert make_uid("http://a", "cat", b"x", "no uid") == make_uid("http://a", "cat", b"y")
    assert make_uid("http://a", "cat", b"x") != make_uid("http://a", "dog", b"x")
    assert make_uid("http://a", "cat", b"x") != make_uid("http://b", "cat", b"x")
    assert make_uid(None, "cat", b"x") == make_uid("", "dog", b"x")
    assert make_uid(None, "cat", None) != make_uid(None, "dog", None)
    assert make_uid("http://a", "cat", None) == hashlib.sha256(b"http://a\0cat").hexdigest()[:32]


@given(st.none() | st.text(), st.none() | st.text(), st.none() | st.binary(), st.none() | st.text())
def test_a_uid_is_always_32_hex_characters(
    url: str | None, caption: str | None, image: bytes | None, given_uid: str | None
) -> None:
    made = make_uid(url, caption, image, given_uid)
    assert len(made) == 32
    assert set(made) <= set("0123456789abcdef")


@pytest.mark.parametrize("scheme", ["disk", "memory"])
def test_a_shard_holds_the_original_bytes_of_its_good_rows(scheme: str, tmp_path: Path) -> None:
    folder = str(tmp_path) if scheme == "disk" else f"memory://{uuid.uuid4().hex}"
    rows = make_rows(7)
    files = write_shard(folder, 7, rows, IMAGES)
    assert [file.path for file in files] == ["shards/00007.tar", "rows/00007.parquet"]
    written = read_table(join(folder, "rows/00007.parquet"))
    assert written.drop(["tar", "offset"]).equals(rows.drop(["tar", "offset"]))
    assert written["tar"].to_pylist() == [0, None, 0]
    assert written["offset"].to_pylist() == [512, None, 3584]
    samples = list(read_samples(folder, 7))
    assert [sample.row for sample in samples] == [0, 2]
    assert [sample.image for sample in samples] == [IMAGES[0], IMAGES[2]]
    assert [sample.caption for sample in samples] == [CAPTIONS[0], CAPTIONS[2]]
    assert {sample.extension for sample in samples} == {"jpg"}


def test_a_shard_is_a_webdataset_for_others(tmp_path: Path) -> None:
    write_shard(str(tmp_path), 0, make_rows(), IMAGES)
    data = (tmp_path / "shards" / "00000.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
        sidecar = json.loads(tar.extractfile(names[2]).read())  # type: ignore[union-attr]
    key = sample_key(0, 0)
    assert names[:3] == [f"{key}.jpg", f"{key}.txt", f"{key}.json"]
    assert len(names) == 6
    assert sidecar["caption"] == CAPTIONS[0]
    assert sidecar["uid"] == make_uid(None, CAPTIONS[0], IMAGES[0])


def test_the_same_shard_gives_the_same_bytes(tmp_path: Path) -> None:
    one = write_shard(str(tmp_path / "one"), 3, make_rows(3), IMAGES)
    other = write_shard(str(tmp_path / "other"), 3, make_rows(3), IMAGES)
    assert one == other


def test_tables_keep_chunks_out_of_their_bytes(tmp_path: Path) -> None:
    table = make_rows()
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    one = write_table(str(tmp_path), "one.parquet", table)
    other = write_table(str(tmp_path), "other.parquet", chunked)
    assert one.sha256 == other.sha256


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    write_shard(str(tmp_path), 0, make_rows(), IMAGES)
    tar = tmp_path / "shards" / "00000.tar"
    tar.write_bytes(tar.read_bytes()[:1500])
    with pytest.raises(SluiceError, match=r"shards/00000\.tar is damaged") as caught:
        list(read_samples(str(tmp_path), 0))
    assert "run again" in caught.value.way_out


def test_the_latest_version_is_the_one_published(tmp_path: Path) -> None:
    store = str(tmp_path)
    first, second = make_version(store), make_version(store, code=2)
    publish(store, "pool", first)
    assert open_dataset(store, "pool").artifact.digest == first.digest
    publish(store, "pool", second)
    opened = open_dataset(store, "pool")
    assert opened.artifact.digest == second.digest
    assert opened.shards == [0, 1]
    assert opened.rows(1, ["uid", "shard"]).column_names == ["uid", "shard"]
    assert [sample.row for sample in opened.samples(1)] == [0, 2]
    assert open_dataset(store, f"pool@{first.digest}").artifact.digest == first.digest


def test_what_cannot_be_opened_is_named_with_the_way_out(tmp_path: Path) -> None:
    store = str(tmp_path)
    with pytest.raises(SluiceError, match="no dataset 'pool'") as caught:
        open_dataset(store, "pool")
    assert "curate-and-pretrain" in caught.value.way_out
    made = make_version(store)
    publish(store, "pool", made)
    with pytest.raises(SluiceError, match="pool@0000 is not in"):
        open_dataset(store, "pool@0000")
    filesystem.remove_tree(made.url)
    with pytest.raises(SluiceError, match=f"pool@{made.digest} is not in"):
        open_dataset(store, "pool")


def test_the_schema_of_rows_is_the_contract() -> None:
    # Parquet files in users' stores have these columns: a change is a change of format.
    assert " ".join(dataset.ROWS.names) == (
        "uid shard row status reason key source url caption sha256 bytes format width height "
        "original_width original_height http_status tar offset meta"
    )
