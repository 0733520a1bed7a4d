"""Ingest: whatever comes in, every record ends in exactly one row, and every row says why."""

import hashlib
import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curation import ingest
from curation.fingerprint import source_fingerprint
from curation.ingest import IngestWork, ingest_draft, ingest_items
from curation.settings import SourceSettings
from curation.sources import Record
from infra.artifacts import Artifact, verify
from infra.dataset import ROWS, Dataset, make_uid
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from infra.runner import InlineRunner, LocalRunner, Runner
from infra.stage import run_stage


def picture(number: int = 0, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), (number % 256, number // 256, 0)).save(buffer, kind)
    return buffer.getvalue()


def tar_bytes(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def sample(key: str, image: bytes, caption: str = "a caption", **facts: Any) -> list[Any]:
    files = [(f"{key}.jpg", image), (f"{key}.txt", caption.encode())]
    return files + ([(f"{key}.json", json.dumps(facts).encode())] if facts else [])


def run(
    store: str | Path, sources: list[SourceSettings], rows: int = 100, runner: Runner | None = None
) -> Artifact:
    draft = ingest_draft(str(store), "pool", sources, source_fingerprint(sources), rows)
    items = ingest_items(sources, rows)
    work = IngestWork(draft.url)
    made = run_stage("ingest", {"": draft}, items, work, runner or InlineRunner(), SilentDisplay())
    return made[""]


def rows_of(artifact: Artifact) -> list[dict[str, Any]]:
    dataset = Dataset(artifact)
    return [row for shard in dataset.shards for row in dataset.rows(shard).to_pylist()]


def ingest_tar(tmp_path: Path, members: list[Any], name: str = "in") -> list[dict[str, Any]]:
    (tmp_path / name).mkdir()
    (tmp_path / name / "00000.tar").write_bytes(tar_bytes(members))
    return rows_of(run(tmp_path / "store", [SourceSettings(tars=str(tmp_path / name))]))


def test_a_row_says_everything_that_is_known_without_decoding(tmp_path: Path) -> None:
    image = picture(kind="WEBP")
    members = sample("07", image, "a square", url="https://x/y.jpg", concept="square", n=[1, None])
    assert ingest_tar(tmp_path, members) == [
        {
            "uid": make_uid("https://x/y.jpg", "a square", image),
            "shard": 0,
            "row": 0,
            "status": "ok",
            "reason": None,
            "key": "07",
            "source": "in/00000.tar#07",
            "url": "https://x/y.jpg",
            "caption": "a square",
            "sha256": hashlib.sha256(image).hexdigest(),
            "bytes": len(image),
            "format": "webp",
            "width": 9,
            "height": 7,
            "original_width": None,
            "original_height": None,
            "http_status": None,
            "tar": 0,
            "offset": 512,
            "meta": '{"concept":"square","n":[1,null]}',
        }
    ]


def test_the_bytes_of_an_image_are_not_touched(tmp_path: Path) -> None:
    images = [picture(1, "JPEG"), picture(2, "PNG"), picture(3, "WEBP") + b"trailing"]
    members = [file for i, image in enumerate(images) for file in sample(str(i), image)]
    (tmp_path / "x.tar").write_bytes(
        tar_bytes([*members[:2], *sample("bad", b"text"), *members[2:]])
    )
    dataset = Dataset(run(tmp_path / "store", [SourceSettings(tars=str(tmp_path / "x.tar"))]))
    found = list(dataset.samples(0))
    assert [entry.image for entry in found] == images
    assert [entry.row for entry in found] == [0, 2, 3]
    assert [entry.extension for entry in found] == ["jpg", "png", "webp"]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "not_an_image"),
        (b"<html>404</html>", "not_an_image"),
        (b"GIF89a" + bytes(30), "unsupported_format"),
        (picture()[:20], None),  # an image by its first bytes: decoding will tell
    ],
)
def test_what_is_no_image_is_refused_by_its_bytes(
    image: bytes, reason: str | None, tmp_path: Path
) -> None:
    row = ingest_tar(tmp_path, sample("0", image))[0]
    assert row["reason"] == reason
    assert row["status"] == ("rejected" if reason else "ok")
    assert row["bytes"] == len(image)


def test_a_header_that_names_an_absurd_size_is_kept_and_not_decoded(tmp_path: Path) -> None:
    size = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    row = ingest_tar(tmp_path, sample("0", b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + size + bytes(5)))[0]
    assert (row["status"], row["width"]) == ("ok", 2**31 - 1)


def test_uids_come_from_content(tmp_path: Path) -> None:
    given = "0123456789ABCDEF0123456789abcdef"
    rows = ingest_tar(
        tmp_path,
        sample("a", picture(1), "c", uid=given)
        + sample("b", picture(2), "c", url="u")
        + sample("c", picture(3), "c", uid="no uid")
        + [("d.txt", b"words"), ("e.cls", b"1")],
    )
    assert [row["uid"] for row in rows] == [
        given.lower(),
        hashlib.sha256(b"u\0c").hexdigest()[:32],
        hashlib.sha256(picture(3)).hexdigest()[:32],
        hashlib.sha256(b"words").hexdigest()[:32],
        hashlib.sha256(b"in/00000.tar#e").hexdigest()[:32],
    ]


def test_meta_is_json_for_every_reader(tmp_path: Path) -> None:
    sidecar = b'{"a": NaN, "b": 1e999, "c": "\\ud800", "\\ud801": [1, {"d": true}]}'
    [row] = ingest_tar(tmp_path, [*sample("0", picture()), ("0.json", sidecar)])
    assert json.loads(row["meta"]) == {"a": None, "b": None, "c": "?", "?": [1, {"d": True}]}


def test_meta_nested_beyond_all_meaning_is_refused() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    record = Record("x", image=picture(), caption="c", meta={"nested": nested})
    row, _ = ingest.ingest_row(0, 0, record)
    assert (row["reason"], row["meta"]) == ("bad_json", None)


def test_three_kinds_make_one_version(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    for tar in range(2):
        members = [file for i in range(3) for file in sample(str(i), picture(10 * tar + i))]
        (tmp_path / f"t/{tar}.tar").write_bytes(tar_bytes(members))
    images = pa.array([picture(100 + i) for i in range(5)], pa.binary())
    pq.write_table(pa.table({"jpg": images, "caption": list("abcde")}), tmp_path / "p.parquet")
    (tmp_path / "f").mkdir()
    (tmp_path / "f/x.png").write_bytes(picture(200))
    (tmp_path / "f/x.txt").write_text("x")
    sources = [
        SourceSettings(tars=str(tmp_path / "t")),
        SourceSettings(parquet=str(tmp_path / "p.parquet")),
        SourceSettings(folder=str(tmp_path / "f")),
    ]
    artifact = run(tmp_path / "store", sources, rows=4)
    assert [part.rows for part in artifact.parts] == [3, 3, 4, 1, 1]
    assert artifact.totals["kept"] == 12
    assert verify(artifact) == []
    assert [(row["shard"], row["row"]) for row in rows_of(artifact)[-2:]] == [(3, 0), (4, 0)]


def test_moved_data_give_the_same_version(tmp_path: Path) -> None:
    def make(root: Path) -> Artifact:
        (root / "pool").mkdir(parents=True)
        (root / "pool/0.tar").write_bytes(tar_bytes(sample("0", picture()) + sample("1", b"bad")))
        return run(root / "store", [SourceSettings(tars=str(root / "pool/*.tar"))])

    first, second = make(tmp_path / "a"), make(tmp_path / "b/c")
    assert (first.digest, first.content) == (second.digest, second.content)


def test_the_digest_follows_bytes_names_and_settings(tmp_path: Path) -> None:
    tars = tmp_path / "pool"
    tars.mkdir()
    (tars / "0.tar").write_bytes(tar_bytes(sample("0", picture())))
    source = SourceSettings(tars=str(tars))

    def state() -> str:
        return source_fingerprint([source])

    before = state()
    assert before == state()
    (tars / "0.tar").write_bytes(tar_bytes(sample("0", picture(1))))
    changed = state()
    (tars / "0.tar").rename(tars / "1.tar")
    assert len({before, changed, state()}) == 3
    taken = SourceSettings(tars="/nowhere", fingerprint="monday")
    assert source_fingerprint([taken]) == source_fingerprint([taken])
    digests = {
        ingest_draft("store", name, [source], before, rows).spec.digest
        for name in ("pool", "trusted")
        for rows in (10, 20)
    }
    assert len(digests) == 4


def test_object_stores_are_named_by_entity_tag_or_content() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/finger/0.tar", b"one")
    source = SourceSettings(tars="memory://finger/*.tar")
    before = source_fingerprint([source])
    fs.pipe_file("/finger/0.tar", b"two")
    assert source_fingerprint([source]) != before


def test_a_version_on_an_object_store() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/in/pool/0.tar", tar_bytes(sample("0", picture()) + sample("1", b"bad")))
    artifact = run("memory://objects", [SourceSettings(tars="memory://in/pool/*.tar")])
    assert [row["reason"] for row in rows_of(artifact)] == [None, "not_an_image"]


def test_a_shard_has_no_more_rows_than_an_id_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "ROW_BITS", 2)
    members = [file for i in range(5) for file in sample(str(i), picture(i))]
    (tmp_path / "0.tar").write_bytes(tar_bytes(members))
    with pytest.raises(SluiceError, match=r"0\.tar holds more than 4 samples"):
        run(tmp_path / "store", [SourceSettings(tars=str(tmp_path / "0.tar"))])


def test_no_source_at_all() -> None:
    with pytest.raises(SluiceError, match="no source"):
        ingest_items([], 10)


@pytest.mark.slow
def test_the_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    for tar in range(3):
        members = [file for i in range(4) for file in sample(str(i), picture(10 * tar + i))]
        (tmp_path / f"pool/{tar}.tar").write_bytes(tar_bytes(members))
    sources = [SourceSettings(tars=str(tmp_path / "pool"))]
    alone = run(tmp_path / "a", sources)
    with LocalRunner(2) as runner:
        assert run(tmp_path / "b", sources, runner=runner).content == alone.content


# ---- conservation, for any bytes ----


def balanced(artifact: Artifact) -> None:
    """Rows in = kept + sum over reasons, in every shard, and the tar holds what is kept."""
    dataset = Dataset(artifact)
    for part in artifact.parts:
        rows = dataset.rows(int(part.name))
        assert rows.schema.equals(ROWS)
        assert rows.num_rows == part.rows == part.kept + sum(part.dropped.values())
        entries = rows.to_pylist()
        assert [entry["row"] for entry in entries] == list(range(part.rows))
        assert all((entry["reason"] is None) == (entry["status"] == "ok") for entry in entries)
        kept = [entry["row"] for entry in entries if entry["status"] == "ok"]
        assert [found.row for found in dataset.samples(int(part.name))] == kept


NAMES = st.sampled_from(
    ["0.jpg", "0.txt", "0.json", "1.png", "1.txt", "1.gif", "../2.jpg", "2", ".x"]
)
CONTENT = st.one_of(
    st.just(picture()), st.just(b"text"), st.just(b'{"a": 1}'), st.binary(max_size=30)
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(NAMES, CONTENT), max_size=12), st.data())
def test_any_tar_balances(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, bytes]], data: st.DataObject
) -> None:
    content = bytearray(tar_bytes(members))
    flips = st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=8)
    for place, value in data.draw(flips):
        content[place] = value
    cut = data.draw(st.integers(0, len(content)))
    folder = tmp_path_factory.mktemp("any")
    (folder / "0.tar").write_bytes(bytes(content[:cut]))
    artifact = run(folder / "store", [SourceSettings(tars=str(folder / "0.tar"))])
    balanced(artifact)
    assert artifact.totals["rows"] >= 1


@settings(deadline=None, max_examples=40)
@given(st.binary(max_size=3000))
def test_any_bytes_as_a_tar_balance(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "0.tar").write_bytes(data)
    balanced(run(folder / "store", [SourceSettings(tars=str(folder))]))


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(st.one_of(st.none(), CONTENT), st.one_of(st.none(), st.text(max_size=5))),
        min_size=1,
        max_size=20,
    ),
    st.integers(1, 7),
    st.integers(1, 7),
)
def test_any_parquet_balances(
    tmp_path_factory: pytest.TempPathFactory,
    samples: list[tuple[bytes | None, str | None]],
    group: int,
    rows: int,
) -> None:
    folder = tmp_path_factory.mktemp("parquet")
    images, captions = zip(*samples, strict=True)
    table = {"jpg": pa.array(images, pa.binary()), "caption": pa.array(captions, pa.string())}
    pq.write_table(pa.table(table), folder / "p.parquet", row_group_size=group)
    artifact = run(folder / "store", [SourceSettings(parquet=str(folder))], rows)
    balanced(artifact)
    assert artifact.totals["rows"] == len(samples)
    assert all(part.rows <= rows for part in artifact.parts)


@given(
    st.builds(
        Record,
        source=st.text(),
        image=st.one_of(st.none(), CONTENT),
        caption=st.one_of(st.none(), st.text()),
        url=st.one_of(st.none(), st.text()),
        uid=st.one_of(st.none(), st.text()),
        meta=st.dictionaries(
            st.text(), st.one_of(st.none(), st.floats(), st.integers(), st.text())
        ),
        reason=st.one_of(st.none(), st.just("missing_image")),
    )
)
def test_any_record_makes_a_row_that_can_be_written(record: Record) -> None:
    row, image = ingest.ingest_row(3, 0, record)
    assert pa.Table.from_pylist([row], ROWS).num_rows == 1
    assert (image is None) == (row["status"] == "rejected")
    assert len(row["uid"]) == 32
