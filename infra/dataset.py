"""Dataset versions: shards of samples, and a row for every input record, failures included.

<store>/<dataset>/<version>/rows/00000.parquet    one row per input record (ROWS)
<store>/<dataset>/<version>/shards/00000.tar      the samples whose status is "ok", but for
<store>/<dataset>/<version>/tars/00000.json       those used where they are: infra.samples
<store>/<dataset>/<version>/scores/<name>-<fingerprint>/...    artifacts of their own,
<store>/<dataset>/<version>/verdicts/<digest>/...              added later, row-aligned
<store>/<dataset>/latest                           the version last made, for people

A drawn version (infra.drawn) has none of these files; `Dataset`, `read_samples` and `read_images`
draw what they are asked for.
"""

import contextlib
import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from infra import artifacts, cache, filesystem, samples
from infra.artifacts import Artifact
from infra.drawn import DrawnShard, is_drawn
from infra.errors import SluiceError
from infra.filesystem import FilePart, HashingFile, join, write_whole
from infra.samples import Sample, Tar
from infra.shards import TarWriter

LATEST = "latest"
ROW_BITS = 20  # an int64 id is shard << 20 | row, so a shard holds at most 2**20 rows
ROWS_PER_BATCH = 4096  # rows of a shard being written that are Python objects
TARS_PER_SHARD = 127  # the column `tar` is an int8

ROWS = pa.schema(
    [
        ("uid", pa.string()),  # 32 hex characters, content not position
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("status", pa.string()),  # "ok": the sample is in a tar; else it was rejected
        ("reason", pa.string()),  # why, where it was rejected
        ("key", pa.string()),  # its key in that tar
        ("source", pa.string()),  # where it came from: file, and member or row
        ("url", pa.string()),
        ("caption", pa.string()),
        ("sha256", pa.string()),  # of the original image bytes, before any resize
        ("bytes", pa.int64()),  # of the image as stored, after any resize
        ("format", pa.string()),  # jpg, png, webp: by content, not by name
        ("width", pa.int32()),  # pixels as stored, from the header
        ("height", pa.int32()),
        ("original_width", pa.int32()),  # pixels before a resize; null where there was none
        ("original_height", pa.int32()),
        ("http_status", pa.int16()),  # of the last answer, where the image was fetched
        ("tar", pa.int8()),  # which of the shard's tars holds the image; null where none does
        ("offset", pa.int64()),  # at which byte of that tar the image starts
        ("meta", pa.string()),  # whatever else rode along, as JSON
    ]
)

REPEATING = ("status", "reason", "format", "http_status")  # columns of few values

_VALUES = itemgetter(*ROWS.names)
_UID = re.compile(r"[0-9a-fA-F]{32}")


def make_uid(
    url: str | None,
    caption: str | None,
    image: bytes | None,
    given: str | None = None,
    sha256: str | None = None,
) -> str:
    """The identity of a sample, 32 hex characters, from its content and not its position.

    `given` where the source has a uid of this form (DataComp's); else the first 128 bits of
    SHA-256 over URL, NUL and caption; without a URL over the image bytes, or over the caption
    where there is no image either. sha256: of the original image bytes, where it is known.
    """
    if given and _UID.fullmatch(given):
        return given.lower()
    content = (caption or "").encode("utf-8", "surrogatepass")
    if url:
        content = url.encode("utf-8", "surrogatepass") + b"\0" + content
    elif image and sha256:
        return sha256[:32]
    elif image:
        content = image
    return hashlib.sha256(content).hexdigest()[:32]


def index_id(shard: int, row: int) -> int:
    return shard << ROW_BITS | row


def shard_and_row(identifier: int) -> tuple[int, int]:
    return identifier >> ROW_BITS, identifier & (1 << ROW_BITS) - 1


def of_shard(ids: npt.NDArray[np.int64], shard: int) -> slice:
    """Where the ids of a shard stand among ids that ascend."""
    low, high = np.searchsorted(ids, [index_id(shard, 0), index_id(shard + 1, 0)]).tolist()
    return slice(low, high)


def part_name(shard: int) -> str:
    return f"{shard:05d}"


def read_table(url: str, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file, or some of its columns, in the order asked for.

    SluiceError for the rows of a drawn version, which has no such file.
    """
    with _rows_of(url), filesystem.open_read(url) as file:
        return _read_table(file, columns)


def read_kept_table(folder: str, path: str, columns: list[str] | None = None) -> pa.Table:
    """`read_table` of a file of a committed artifact, by way of the cache of shards."""
    with _rows_of(join(folder, path)), cache.open_cached(folder, path) as file:
        return _read_table(file, columns)


def _read_table(file: BinaryIO, columns: list[str] | None) -> pa.Table:
    # On this thread alone: one of Arrow's that lets go of a Python file while Python shuts
    # down ends the process with "terminate called".
    table = pq.ParquetFile(file).read(columns, use_threads=False)
    return table if columns is None else table.select(columns)


@contextlib.contextmanager
def _rows_of(url: str) -> Iterator[None]:
    """Says so where a file is not there because its version is drawn."""
    try:
        yield
    except FileNotFoundError as error:
        version, _, path = url.rpartition("/rows/")
        if version and path and _drawn_shard(version, 0) is not None:
            raise SluiceError(
                f"{version} has no files: its samples are drawn when training reads them",
                "make the version with files: `stored: true` beside the settings it is drawn from "
                "(synthesize.fractals.stored)",
            ) from error
        raise


def write_table(
    folder: str, path: str, table: pa.Table, repeating: Sequence[str] | None = None
) -> FilePart:
    """Write Parquet whole; the same table gives the same bytes.

    repeating: the columns whose values come again and again, where these are known; the others
    then take half the time to write.
    """
    buffer = io.BytesIO()
    known: dict[str, Any] = {}
    if repeating is not None:
        known = {"use_dictionary": list(repeating), "write_statistics": False}
    pq.write_table(table, buffer, compression="zstd", **known)
    return filesystem.write_bytes(folder, path, buffer.getvalue())


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

    @property
    def shard_rows(self) -> int:
        """The rows of a shard, on average."""
        totals = self.artifact.totals
        return totals["rows"] // max(totals["parts"], 1)

    def rows(self, shard: int, columns: list[str] | None = None) -> pa.Table:
        if is_drawn(self.artifact):
            fields = [ROWS.field(name) for name in columns or ROWS.names]
            return DrawnShard(self.artifact, shard).table(pa.schema(fields))
        return read_kept_table(self.url, f"rows/{part_name(shard)}.parquet", columns)

    def samples(self, shard: int) -> Iterator[Sample]:
        """The samples of a shard in row order; rejected rows have none."""
        return read_samples(self.url, shard)


def _drawn_shard(url: str, shard: int) -> DrawnShard | None:
    """A shard of the version at `url` where that is a drawn one."""
    artifact = artifacts.load(url)
    return DrawnShard(artifact, shard) if artifact and is_drawn(artifact) else None


def _places(url: str, shard: int) -> pa.Table:
    rows_url = join(url, "rows", f"{part_name(shard)}.parquet")
    try:
        return read_kept_table(url, f"rows/{part_name(shard)}.parquet", samples.COLUMNS)
    except FileNotFoundError as error:
        raise SluiceError(
            f"there is no shard {part_name(shard)} at {url}", "check the version and the shard"
        ) from error
    except KeyError as error:
        raise SluiceError(
            f"{rows_url} does not say where the images are: it was written by an older Sluice",
            "run again what made it",
        ) from error


def read_samples(url: str, shard: int, rows: pa.Table | None = None) -> Iterator[Sample]:
    """The samples of a shard of the version at `url`, in row order.

    rows: only those, where the caller has them (with `samples.COLUMNS`). Raises SluiceError for
    a tar that is gone, damaged or changed.
    """
    try:
        rows = _places(url, shard) if rows is None else rows
    except SluiceError:
        if (drawn := _drawn_shard(url, shard)) is None:
            raise
        return drawn.samples()
    return samples.read_stored(url, part_name(shard), rows)


def read_images(url: str, shard: int, rows: Sequence[int]) -> dict[int, bytes]:
    """The images of a few rows of a shard; rows without one, or beyond the last, are left out."""
    try:
        table = _places(url, shard)
    except SluiceError:
        if (drawn := _drawn_shard(url, shard)) is None:
            raise
        return {row: drawn.file(row) for row in sorted(set(rows)) if 0 <= row < drawn.rows}
    wanted = [row for row in sorted(set(rows)) if 0 <= row < table.num_rows]
    return samples.read_places(url, part_name(shard), table.take(pa.array(wanted, pa.int64())))


def sample_key(shard: int, row: int) -> str:
    """The key of a row in a tar of ours: its int64 id in 15 digits, so keys sort like rows."""
    return f"{index_id(shard, row):015d}"


class ShardWriter:
    """Writes one shard of the version in `folder`, row by row.

        with ShardWriter(folder, shard) as writer:
            writer.add(row, image)
        writer.files

    Images go to the shard's tar at once, rows to one file at the end. Leaving by an exception
    writes nothing.
    """

    def __init__(self, folder: str, shard: int) -> None:
        self.files: list[FilePart] = []
        self.tars: list[Tar] = []
        self._folder = folder
        self._shard = shard
        self._name = part_name(shard)
        self._stack = contextlib.ExitStack()
        self._referred: dict[str, int] = {}
        self._own: tuple[int, TarWriter, HashingFile] | None = None
        self._rows: list[tuple[Any, ...]] = []
        self._batches: list[pa.RecordBatch] = []

    def __enter__(self) -> "ShardWriter":
        return self

    def refer(self, url: str) -> int:
        """The number, for the column `tar`, of a tar that is used where it is."""
        if url not in self._referred:
            size = filesystem.size(url)
            self._referred[url] = self._add_tar(Tar(samples.shorten(self._folder, url), size))
        return self._referred[url]

    def add(self, row: Mapping[str, Any], image: bytes | None = None) -> None:
        """Add a row (schema ROWS, what it lacks is null), and its image where there is one.

        An image is written to the shard's own tar, and the row then says where. A row whose image
        lies elsewhere comes without one, with its `key`, `tar`, `offset` and `bytes`.
        """
        if image is not None:
            number, tar, _ = self._own or self._open()
            key = sample_key(self._shard, row["row"])
            offset = tar.add_all(
                [
                    (f"{key}.{row['format']}", image),
                    (f"{key}.txt", (row["caption"] or "").encode()),
                    (f"{key}.json", _sidecar(key, row)),
                ]
            )
            place = {"key": key, "tar": number, "offset": offset, "bytes": len(image)}
            row = {**row, **place}
        whole = len(row) == len(ROWS)
        self._rows.append(_VALUES(row) if whole else tuple(map(row.get, ROWS.names)))
        if len(self._rows) == ROWS_PER_BATCH:
            self._pack()

    def __exit__(self, *raised: Any) -> None:
        if raised[0] is not None:
            self._stack.__exit__(*raised)
            return
        with self._stack:  # given up, too, where the end of the tar cannot be written
            if self._own is not None:
                self._own[1].close()
        if self._own is not None:
            self.files.append(self._own[2].part(samples.own_tar(self._name).url))
        self._pack()
        samples.write_tars(self._folder, self._name, self.tars)
        rows = pa.Table.from_batches(self._batches, ROWS).combine_chunks()
        path = f"rows/{self._name}.parquet"
        self.files.append(write_table(self._folder, path, rows, REPEATING))

    def _pack(self) -> None:
        """Turn the rows at hand into Arrow columns, which take a tenth of the memory."""
        columns = zip(*self._rows, strict=True) if self._rows else [()] * len(ROWS)
        arrays = [pa.array(column, kind) for column, kind in zip(columns, ROWS.types, strict=True)]
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=ROWS))
        self._rows = []

    def _open(self) -> tuple[int, TarWriter, HashingFile]:
        own = samples.own_tar(self._name)
        file = self._stack.enter_context(write_whole(self._folder, own.url))
        self._own = self._add_tar(own), TarWriter(file), file  # type: ignore[arg-type]
        return self._own

    def _add_tar(self, tar: Tar) -> int:
        if len(self.tars) == TARS_PER_SHARD:
            raise SluiceError(
                f"shard {self._name} of {self._folder} has samples in more than {TARS_PER_SHARD} "
                "tars",
                "ingest with fewer samples to a shard",
            )
        self.tars.append(tar)
        return len(self.tars) - 1


def write_shard(
    folder: str, shard: int, rows: pa.Table, images: Sequence[bytes | None]
) -> list[FilePart]:
    """Write one shard: `rows` has schema ROWS, `images` the bytes of the "ok" rows."""
    with ShardWriter(folder, shard) as writer:
        for row, image in zip(rows.to_pylist(), images, strict=True):
            writer.add(row, image if row["status"] == "ok" else None)
    return writer.files


def _sidecar(key: str, row: Mapping[str, Any]) -> bytes:
    facts = {name: row.get(name) for name in ("uid", "url", "caption", "sha256", "width", "height")}
    return orjson.dumps({"key": key, **facts}, option=orjson.OPT_SORT_KEYS)


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
