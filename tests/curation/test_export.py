"""Exports are img2dataset's layout to the letter, and its readers read them."""

import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from curation.export import ExportSettings, ExportWork, cut, export_draft, export_items
from curation.ingest import IngestWork, ingest_draft, ingest_items
from curation.settings import SourceSettings
from infra.artifacts import Artifact, verify
from infra.dataset import Dataset
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from infra.runner import InlineRunner
from infra.stage import run_stage
from tests.curation.sources.made import tar_bytes
from tests.curation.sources.test_img2dataset import SCHEMA, row


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), (number, 0, 99)).save(buffer, "JPEG")
    return buffer.getvalue()


def version(folder: Path, counts: tuple[int, ...] = (3, 2)) -> Artifact:
    """Tars of img2dataset with so many samples, and one failure of each kind beside each."""
    (folder / "in").mkdir(parents=True)
    for shard, count in enumerate(counts):
        members, rows = [], []
        for number in range(count):
            key = f"{shard * 100 + number:05d}"
            facts = {**row(key), "punsafe": 1, "NSFW": "UNLIKELY"}
            members += [(f"{key}.jpg", jpeg(number)), (f"{key}.json", json.dumps(facts).encode())]
            members += [(f"{key}.txt", f"caption ü {key}".encode())]
            rows.append(row(key))
        rows.append(row(f"{shard}98", "failed_to_download", "HTTP Error 404: Not Found"))
        rows.append(row(f"{shard}99", "failed_to_resize", "image too small"))
        (folder / f"in/{shard:05d}.tar").write_bytes(tar_bytes(members))
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / f"in/{shard:05d}.parquet")
    sources = [SourceSettings(tars=str(folder / "in"))]
    draft = ingest_draft(str(folder / "store"), "pool", sources, "x")
    items, work = ingest_items(sources), IngestWork(draft.url)
    return run_stage("i", {"": draft}, items, work, InlineRunner(), SilentDisplay())[""]


def export(made: Artifact, target: Path, **settings: Any) -> Artifact:
    chosen = ExportSettings(**settings)
    draft = export_draft(str(target), made, chosen)
    items, work = export_items(made, chosen), ExportWork(str(target), made.url, chosen)
    done = run_stage("e", {"": draft}, items, work, InlineRunner(), SilentDisplay())[""]
    assert verify(done) == []
    return done


def members(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as file:
        return {info.name: file.extractfile(info).read() for info in file}  # type: ignore[union-attr]


def test_names_keys_and_columns_are_those_of_img2dataset(tmp_path: Path) -> None:
    export(version(tmp_path), tmp_path / "out", samples_per_shard=4, columns=())
    names = sorted(path.name for path in (tmp_path / "out").iterdir() if path.name[0].isdigit())
    assert names == [
        "00000.parquet", "00000.tar", "00000_stats.json",
        "00001.parquet", "00001.tar", "00001_stats.json",
    ]  # fmt: skip
    table = pq.read_table(tmp_path / "out/00000.parquet")
    assert table.schema.equals(SCHEMA.remove(SCHEMA.get_field_index("similarity")))
    # Five digits of the shard, one of the row: six rows at most are in one shard.
    assert table["key"].to_pylist() == [f"00000{row}" for row in range(6)]
    assert list(members(tmp_path / "out/00000.tar"))[:4] == [
        "000000.jpg", "000000.json", "000000.txt", "000001.jpg",
    ]  # fmt: skip
    assert list(members(tmp_path / "out/00001.tar")) == [
        "000010.jpg", "000010.json", "000010.txt",
    ]  # fmt: skip


def test_a_sidecar_and_the_stats_are_written_as_img2dataset_writes_them(tmp_path: Path) -> None:
    export(version(tmp_path, (1,)), tmp_path / "out", columns=())
    sha256 = hashlib.sha256(jpeg(0)).hexdigest()
    found = members(tmp_path / "out/00000.tar")
    assert found["000000000.json"].decode() == (
        '{\n    "caption": "caption \\u00fc 00000",\n    "url": "https://x.org/00000.jpg",\n'
        '    "key": "000000000",\n    "status": "success",\n    "error_message": null,\n'
        '    "width": 32,\n    "height": 24,\n    "original_width": 32,\n'
        '    "original_height": 24,\n    "exif": "{}",\n    "sha256": "' + sha256 + '"\n}'
    )
    assert found["000000000.txt"].decode() == "caption ü 00000"
    assert found["000000000.jpg"] == jpeg(0)
    assert (tmp_path / "out/00000_stats.json").read_text() == (
        '{\n    "count": 3,\n    "successes": 1,\n    "failed_to_download": 1,\n'
        '    "failed_to_resize": 1,\n    "duration": 0.0,\n    "start_time": 0.0,\n'
        '    "end_time": 0.0,\n    "status_dict": {\n        "http_404": 1,\n'
        '        "success": 1,\n        "too_small": 1\n    }\n}'
    )
    failed = pq.read_table(tmp_path / "out/00000.parquet").to_pylist()[1]
    assert failed == {
        **dict.fromkeys(SCHEMA.names[:-1]),
        "caption": "caption 098",
        "url": "https://x.org/098.jpg",
        "key": "000000001",
        "status": "failed_to_download",
        "error_message": "http_404",
    }


def test_what_rides_along_has_the_type_asked_for(tmp_path: Path) -> None:
    columns = ("uid", "similarity:float64", "punsafe:float64", "NSFW:string", "none:int64")
    made = version(tmp_path)
    export(made, tmp_path / "out", columns=columns)
    table = pq.read_table(tmp_path / "out/00000.parquet")
    assert table.schema.names[:6] == [column.partition(":")[0] for column in columns] + ["caption"]
    uids = [uid for shard in (0, 1) for uid in Dataset(made).rows(shard)["uid"].to_pylist()]
    assert table["uid"].to_pylist() == uids
    assert [str(kind) for kind in table.schema.types[:5]] == [
        "string", "double", "double", "string", "int64",
    ]  # fmt: skip
    first = table.to_pylist()[0]
    assert [first[name] for name in ("similarity", "punsafe", "NSFW", "none")] == [
        0.25, 1.0, "UNLIKELY", None,
    ]  # fmt: skip


@pytest.mark.parametrize("column", ["caption", "similarity", "x:int32", "key"])
def test_columns_that_cannot_be(column: str) -> None:
    with pytest.raises(ValueError, match=column.partition(":")[0]):
        ExportSettings(columns=(column,))


def test_what_was_exported_comes_in_again(tmp_path: Path) -> None:
    made = version(tmp_path)
    export(made, tmp_path / "again/in", samples_per_shard=2)
    sources = [SourceSettings(tars=str(tmp_path / "again/in"))]
    draft = ingest_draft(str(tmp_path / "again"), "pool", sources, "x")
    items, work = ingest_items(sources), IngestWork(draft.url)
    back = run_stage("i", {"": draft}, items, work, InlineRunner(), SilentDisplay())[""]

    def samples(artifact: Artifact) -> list[tuple[Any, ...]]:
        rows = [row for part in artifact.parts for row in Dataset(artifact).rows(int(part.name))
                .select(["uid", "url", "caption", "sha256", "status"]).to_pylist()]  # fmt: skip
        return sorted(tuple(row.values()) for row in rows if row["status"] == "ok")

    assert samples(back) == samples(made)
    assert back.totals["rows"] == made.totals["rows"]
    assert back.totals["dropped"] == {"failed_before": 4}


def test_by_bytes(tmp_path: Path) -> None:
    made, size = version(tmp_path, (5, 4)), len(jpeg(0))
    export(made, tmp_path / "out", bytes_per_shard=4 * size + size // 2)
    counts = [len(members(path)) // 3 for path in sorted((tmp_path / "out").glob("*.tar"))]
    assert sum(counts) == 9
    assert max(counts) <= 4 + 1


def test_the_same_bytes_each_time_and_a_folder_for_one_export(tmp_path: Path) -> None:
    made = version(tmp_path)
    one, other = export(made, tmp_path / "a"), export(made, tmp_path / "b")
    assert (one.digest, one.content) == (other.digest, other.content)
    assert export(made, tmp_path / "a").content == one.content
    with pytest.raises(SluiceError, match="holds something else"):
        export(made, tmp_path / "a", samples_per_shard=2)
    with pytest.raises(SluiceError, match="holds something else"):
        export(made, tmp_path / "in")


def test_an_export_that_stopped_goes_on(tmp_path: Path) -> None:
    made, chosen, target = version(tmp_path), ExportSettings(samples_per_shard=2), tmp_path / "out"
    draft, items = export_draft(str(target), made, chosen), export_items(made, chosen)
    work = ExportWork(str(target), made.url, chosen)
    done: list[int] = []

    def stops(value: Any, todo: list[str]) -> Any:
        done.append(value.shard)
        if len(done) == 2:
            raise RuntimeError("stopped")
        return work(value, todo)

    for _ in range(2):
        try:
            run_stage("e", {"": draft}, items, stops, InlineRunner(), SilentDisplay())
        except Exception:
            continue
    assert done == [0, 1, 1, 2]
    whole = export(made, tmp_path / "whole", samples_per_shard=2)
    assert export(made, target, samples_per_shard=2).content == whole.content


SHARDS = st.lists(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=12), min_size=1, max_size=5
)


@given(SHARDS, st.integers(1, 9))
def test_every_row_is_in_one_shard(shards: list[list[tuple[int, bool]]], limit: int) -> None:
    weights = [
        (number, np.array([w for w, _ in rows], np.int64), np.array([t for _, t in rows], bool))
        for number, rows in enumerate(shards)
    ]
    found = list(cut(weights, limit))
    rows = [(shard, row) for runs, _ in found for shard, start, stop in runs
            for row in range(start, stop)]  # fmt: skip
    assert rows == [(number, row) for number, each in enumerate(shards) for row in range(len(each))]
    for runs, there in found:
        inside = [shards[shard][row] for shard, a, b in runs for row in range(a, b)]
        heavy = [weight for weight, _ in inside if weight]
        assert sum(heavy) <= limit or len(heavy) == 1
        assert there == sum(is_there for _, is_there in inside)


# ---- other people's readers ----


def test_webdataset_reads_it(tmp_path: Path) -> None:
    export(version(tmp_path), tmp_path / "out", samples_per_shard=2)
    urls = str(tmp_path / "out/{00000..00002}.tar")
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert [sample["txt"] for sample in found] == [
        f"caption ü {key:05d}" for key in (0, 1, 2, 100, 101)
    ]
    assert all(sample["jpg"].size == (32, 24) for sample in found)
    assert [sample["json"]["key"] for sample in found] == [sample["__key__"] for sample in found]


@pytest.mark.slow
def test_open_clip_reads_it(tmp_path: Path) -> None:
    data = pytest.importorskip("open_clip_train.data")
    import open_clip
    from torchvision.transforms import ToTensor

    export(version(tmp_path), tmp_path / "out", samples_per_shard=2)
    # Its reader for validation: the one for training does not get on with webdataset 1.
    args = SimpleNamespace(
        val_data=str(tmp_path / "out/{00000..00002}.tar"), val_num_samples=5, batch_size=2,
        workers=0, world_size=1,
    )  # fmt: skip
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    loaded = data.get_wds_dataset(args, ToTensor(), is_train=False, tokenizer=tokenizer)
    batches = list(loaded.dataloader)
    assert sum(len(texts) for _, texts in batches) == 5
    assert all(tuple(images.shape[1:]) == (3, 24, 32) for images, _ in batches)


READ = """
import json, sys
from clip_retrieval.clip_inference.reader import create_webdataset
found = create_webdataset(sys.argv[1:], lambda image: image, lambda text: text)
print(json.dumps([[sample["image_filename"], sample["text"]] for sample in found]))
"""


def test_clip_retrieval_reads_it(tmp_path: Path) -> None:
    """Its packages are older than ours: an environment of its own, named by a variable."""
    python = os.environ.get("SLUICE_CLIP_RETRIEVAL_PYTHON")
    if python is None:
        pytest.skip("SLUICE_CLIP_RETRIEVAL_PYTHON names no Python that has clip-retrieval")
    export(version(tmp_path), tmp_path / "out", samples_per_shard=2)
    urls = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    done = subprocess.run([python, "-c", READ, *urls], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    read = json.loads(done.stdout.splitlines()[-1])
    tables = [pq.read_table(url.replace(".tar", ".parquet")) for url in urls]
    rows = pa.concat_tables(tables).filter(pa.compute.field("status") == "success").to_pylist()
    assert read == [[row["key"], row["caption"]] for row in rows]
    assert len(read) == 5
