"""Samples to evaluate on: of a dataset version, or of Parquet files with image bytes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra import artifacts, filesystem
from infra.dataset import Dataset, make_uid, open_dataset
from infra.digests import digest
from infra.errors import SluiceError
from pretrain import meta
from pretrain.data import open_source

IMAGES = ("image", "jpg", "png", "webp", "jpeg", "img", "image_bytes")  # columns looked for
CAPTIONS = ("caption", "text", "txt")
PARQUET = ".parquet"
ROWS = 64  # of a Parquet file, held at a time


@dataclass(frozen=True)
class Example:
    """One sample; `fields` its labels and whatever else rode along, `place` for messages."""

    uid: str
    caption: str
    fields: Mapping[str, Any]
    image: bytes
    place: str


def read(url: str) -> Iterator[Example]:
    """The samples of a dataset version, or of a Parquet file, pattern or folder, in order.

    A Parquet file has the image's bytes in one column (`IMAGES`; Hugging Face's struct of bytes
    and path is read, too), and may have `caption`, `uid` and `meta` (JSON); every other column is
    a field of the sample. Raises SluiceError for a file without images.
    """
    if artifacts.load(url) is None and (files := _parquet(url)):
        for file in files:
            yield from _read_parquet(file)
        return
    dataset = Dataset(open_source(url))
    for shard in dataset.shards:
        rows = dataset.rows(shard, ["row", "uid", "status", "caption", "meta"]).to_pylist()
        wanted = {row["row"]: row for row in rows if row["status"] == "ok"}
        for sample in dataset.samples(shard):
            row = wanted[sample.row]
            place = f"shard {shard}, row {sample.row}"
            fields = meta.parse(row["meta"])
            yield Example(row["uid"], row["caption"] or "", fields, sample.image, place)


def locate(name: str, store: str) -> str:
    """The URL of samples to evaluate on, there now, which `name` stands for.

    name: NAME or NAME@VERSION of a dataset in `store`, or the URL of a version or of Parquet with
    image bytes. SluiceError where there is neither.
    """
    if "/" not in name and not name.endswith(PARQUET):
        return open_dataset(store, name).url
    return name if artifacts.load(name) or _parquet(name) else open_source(name).url


def content(url: str) -> str:
    """The digest of what `read` gives: of a version its own, else of the files' bytes."""
    artifact = artifacts.load(url)
    if artifact is not None:
        return artifact.digest
    files = _parquet(url)
    if not files:
        return open_source(url).digest  # says that there is nothing
    import hashlib

    return digest([hashlib.sha256(filesystem.read_bytes(file)).hexdigest() for file in files])


def _parquet(url: str) -> list[str]:
    if url.endswith(PARQUET) and not any(sign in url for sign in "*?["):
        return [url] if filesystem.exists(url) else []
    try:
        return [name for name in filesystem.list_files(url) if name.endswith(PARQUET)]
    except (OSError, SluiceError):
        return []


def _read_parquet(url: str) -> Iterator[Example]:
    with filesystem.open_read(url) as file:
        table = pq.ParquetFile(file)
        images = _image_column(url, table.schema_arrow)
        number = 0
        for batch in table.iter_batches(ROWS, use_threads=False):
            for row in batch.to_pylist():
                cell = row.pop(images)
                image = cell.get("bytes") if isinstance(cell, dict) else cell
                yield _example(row, image or b"", f"{url.rpartition('/')[2]}, row {number}")
                number += 1


def _example(row: dict[str, Any], image: bytes, place: str) -> Example:
    caption = next((str(row[name]) for name in CAPTIONS if row.get(name)), "")
    given = row.pop("uid", None)
    fields = {**meta.parse(row.pop("meta", None)), **row}
    uid = make_uid(row.get("url"), caption, image, given if isinstance(given, str) else None)
    return Example(uid, caption, fields, image, place)


def _image_column(url: str, schema: pa.Schema) -> str:
    for name in IMAGES:
        if name in schema.names:
            kind = schema.field(name).type
            if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                kind = kind.field("bytes").type
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return name
    raise SluiceError(
        f"{url} has no column of image bytes, looked for were {', '.join(IMAGES)}",
        f"rename one of its columns: {', '.join(schema.names)}",
    )
