"""Dataset versions: shards of samples, and a row for every input record, failures included.

<store>/<dataset>/<version>/shards/00000.tar      the samples whose status is "ok"
<store>/<dataset>/<version>/rows/00000.parquet    one row per input record (ROWS)
<store>/<dataset>/<version>/scores/<name>-<fingerprint>/...    artifacts of their own,
<store>/<dataset>/<version>/verdicts/<digest>/...              added later, row-aligned
<store>/<dataset>/latest                           the version last made, for people
"""

import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra import artifacts, filesystem
from infra.artifacts import Artifact
from infra.errors import SluiceError
from infra.filesystem import FilePart, join, write_whole
from infra.shards import IMAGE_EXTENSIONS, TarWriter, read_tar

LATEST = "latest"
ROW_BITS = 20  # an int64 id is shard << 20 | row, so a shard holds at most 2**20 rows

ROWS = pa.schema(
    [
        ("uid", pa.string()),  # 32 hex characters, content not position
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("status", pa.string()),  # "ok": the sample is in the tar; else it was rejected
        ("reason", pa.string()),  # why, where it was rejected
        ("key", pa.string()),  # its key in this shard's tar
        ("source", pa.string()),  # where it came from: file, and member or row
        ("url", pa.string()),
        ("caption", pa.string()),
        ("sha256", pa.string()),  # of the original image bytes
        ("bytes", pa.int64()),
        ("format", pa.string()),  # jpg, png, webp: by content, not by name
        ("width", pa.int32()),  # pixels, from the header
        ("height", pa.int32()),
        ("meta", pa.string()),  # whatever else rode along, as JSON
    ]
)


@dataclass(frozen=True)
class Sample:
    """A sample of a shard: its row number, its original image bytes, its row as a dict."""

    row: int
    image: bytes
    extension: str
    caption: str


_UID = re.compile(r"[0-9a-fA-F]{32}")


def make_uid(
    url: str | None, caption: str | None, image: bytes | None, given: str | None = None
) -> str:
    """The identity of a sample, 32 hex characters, from its content and not its position.

    `given` where the source has a uid of this form (DataComp's); else the first 128 bits of
    SHA-256 over URL, NUL and caption; without a URL over the image bytes, or over the caption
    where there is no image either.
    """
    if given and _UID.fullmatch(given):
        return given.lower()
    content = (caption or "").encode("utf-8", "surrogatepass")
    if url:
        content = url.encode("utf-8", "surrogatepass") + b"\0" + content
    elif image:
        content = image
    return hashlib.sha256(content).hexdigest()[:32]


def index_id(shard: int, row: int) -> int:
    return shard << ROW_BITS | row


def shard_and_row(identifier: int) -> tuple[int, int]:
    return identifier >> ROW_BITS, identifier & (1 << ROW_BITS) - 1


def part_name(shard: int) -> str:
    return f"{shard:05d}"


def read_table(url: str, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file, or some of its columns, in the order asked for."""
    with filesystem.open_read(url) as file:
        # On this thread alone: one of Arrow's that lets go of a Python file while Python shuts
        # down ends the process with "terminate called".
        table = pq.ParquetFile(file).read(columns, use_threads=False)
    return table if columns is None else table.select(columns)


def write_table(folder: str, path: str, table: pa.Table) -> FilePart:
    """Write Parquet whole; the same table gives the same bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    with write_whole(folder, path) as file:
        file.write(buffer.getbuffer())
    return file.part(path)


@dataclass(frozen=True)
class Dataset:
    """A dataset version and its readers; `artifact.kind` is "dataset"."""

    artifact: Artifact

    @property
    def url(self) -> str:
        return self.artifact.url

    @property
    def shards(self) -> list[int]:
        return [int(part.name) for part in self.artifact.parts]

    def rows(self, shard: int, columns: list[str] | None = None) -> pa.Table:
        return read_table(self.artifact.path("rows", f"{part_name(shard)}.parquet"), columns)

    def samples(self, shard: int) -> Iterator[Sample]:
        """The samples of a shard in row order; rejected rows have none."""
        return read_samples(self.url, shard)


def read_samples(url: str, shard: int) -> Iterator[Sample]:
    tar_url = join(url, "shards", f"{part_name(shard)}.tar")
    with filesystem.open_read(tar_url) as file:
        for sample in read_tar(file):
            if sample.error:
                raise SluiceError(
                    f"{tar_url} is damaged ({sample.error} at key {sample.key!r})",
                    "remove its version's folder and run again; the store rebuilds it",
                )
            extension = next(name for name in sample.members if name in IMAGE_EXTENSIONS)
            caption = sample.members.get("txt", b"").decode("utf-8", "replace")
            yield Sample(
                int(sample.key) & (1 << ROW_BITS) - 1, sample.members[extension], extension, caption
            )


def sample_key(shard: int, row: int) -> str:
    """The key of a row in its tar: its int64 id in 15 digits, so keys sort like rows."""
    return f"{index_id(shard, row):015d}"


def write_shard(
    folder: str, shard: int, rows: pa.Table, images: list[bytes | None]
) -> list[FilePart]:
    """Write one shard: `rows` has schema ROWS, `images` the original bytes of the "ok" rows."""
    name = part_name(shard)
    with write_whole(folder, f"shards/{name}.tar") as file:
        tar = TarWriter(file)  # type: ignore[arg-type]
        for row, image in zip(rows.to_pylist(), images, strict=True):
            if row["status"] == "ok" and image is not None:
                tar.add(f"{row['key']}.{row['format']}", image)
                tar.add(f"{row['key']}.txt", row["caption"].encode())
                tar.add(f"{row['key']}.json", _sidecar(row))
        tar.close()
    return [file.part(f"shards/{name}.tar"), write_table(folder, f"rows/{name}.parquet", rows)]


def _sidecar(row: dict[str, Any]) -> bytes:
    from infra.digests import canonical_json

    names = ("uid", "url", "caption", "sha256", "width", "height")
    return canonical_json({"key": row["key"], **{name: row[name] for name in names}})


def publish(store: str, name: str, artifact: Artifact) -> None:
    """Point `<store>/<name>/latest` at a version, in one step."""
    filesystem.write_bytes(join(store, name), LATEST, artifact.digest.encode())
    filesystem.remove_empty(join(store, name, filesystem.TEMPORARY))


def open_dataset(store: str, name: str) -> Dataset:
    """Open `name` (its latest version) or `name@version` of a store."""
    dataset, _, version = name.partition("@")
    if not version:
        pointer = join(store, dataset, LATEST)
        if not filesystem.exists(pointer):
            raise SluiceError(
                f"no dataset {dataset!r} in {store}",
                "run `prefect run curate-and-pretrain` first, or give --store",
            )
        version = filesystem.read_bytes(pointer).decode().strip()
    artifact = artifacts.load(join(store, dataset, version))
    if artifact is None:
        raise SluiceError(f"{dataset}@{version} is not in {store}", "check the version's name")
    return Dataset(artifact)
