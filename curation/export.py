"""A dataset version in img2dataset's own layout, for tools that know no other.

    00000.tar           KEY.jpg|png|webp, KEY.json, KEY.txt of every sample
    00000.parquet       a row for every sample, and for every record that failed on the way in
    00000_stats.json    counts, and how often each message came

Names, columns, their order and types, JSON and keys are those of img2dataset 1.47 (its writer,
downloader and logger), with three differences: `error_message` is our reason, times are 0 so that
the same version gives the same bytes, and rows that curation dropped are left out.
"""

import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, field_validator

from curation import outcomes
from curation.claim import claim
from curation.headers import read_header
from curation.patches import drop_patches
from infra.artifacts import Artifact, Part, Spec, load
from infra.dataset import ROWS, Dataset, part_name, read_samples, read_table
from infra.errors import SluiceError
from infra.filesystem import FilePart, join, write_bytes, write_whole
from infra.shards import TarWriter
from infra.stage import Draft, Item

CODE = 1
TYPES = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
}
SHARD_DIGITS = 5
SUCCESS, NOT_FETCHED, NOT_RESIZED = "success", "failed_to_download", "failed_to_resize"
RESIZING = frozenset(
    {
        outcomes.NOT_AN_IMAGE,
        outcomes.UNSUPPORTED_FORMAT,
        outcomes.DECODE_FAILED,
        outcomes.TOO_MANY_PIXELS,
        outcomes.TOO_SMALL,
        outcomes.EXTREME_ASPECT,
        outcomes.BAD_BOXES,
    }
)
FIXED = (
    *((name, pa.string()) for name in ("caption", "url", "key", "status", "error_message")),
    *((name, pa.int32()) for name in ("width", "height", "original_width", "original_height")),
    ("exif", pa.string()),
    ("sha256", pa.string()),
)


class ExportSettings(BaseModel):
    """How a version is cut, and what rides along."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples_per_shard: int = Field(10_000, ge=1, description="samples of a shard, failures apart")
    bytes_per_shard: int | None = Field(
        None, ge=1, description="bytes of images of a shard, instead of a number of samples"
    )
    drop_patches: bool = Field(
        False, description="fill the patches that the version's plan leaves out: other bytes"
    )
    columns: tuple[str, ...] = Field(
        ("uid",),
        description="more columns: of rows/, or of what rode along as NAME:TYPE, the type one of "
        f"{', '.join(TYPES)}",
    )

    @field_validator("columns")
    @classmethod
    def _known(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        for column in columns:
            name, _, kind = column.partition(":")
            if name in dict(FIXED):
                raise ValueError(f"{name} is a column of img2dataset's own")
            if (kind or "string") not in TYPES or (not kind and name not in ROWS.names):
                raise ValueError(f"{column}: give a column of rows/, or NAME:{'|'.join(TYPES)}")
        return columns

    @property
    def arrow_schema(self) -> pa.Schema:
        """img2dataset's columns, after those asked for."""
        pairs = (column.partition(":") for column in self.columns)
        more = [(name, TYPES[kind] if kind else ROWS.field(name).type) for name, _, kind in pairs]
        return pa.schema([*more, *FIXED])


@dataclass(frozen=True)
class ExportItem:
    """One shard to be: runs of rows (shard, start, stop) of the version.

    digits: of the place of a row in its shard, within its key.
    """

    shard: int
    runs: tuple[tuple[int, int, int], ...]
    digits: int


def export_draft(target: str, version: Artifact, settings: ExportSettings) -> Draft:
    """The export of a version to the folder `target`, which is claimed for it.

    Raises SluiceError where something else lies there.
    """
    spec = Spec(
        "export", "curation.export", settings.model_dump(mode="json"), (version.digest,), CODE
    )
    claim(target, spec)
    return Draft(target, spec)


def export_items(version: Artifact, settings: ExportSettings) -> list[Item]:
    """One item for each shard to be, cut from the rows alone."""
    limit = settings.bytes_per_shard or settings.samples_per_shard
    shards = list(cut(_weights(Dataset(version), settings), limit))
    largest = max([settings.samples_per_shard, *(rows for _, rows in shards)])
    digits = math.ceil(math.log10(largest))
    return [
        Item(part_name(number), ExportItem(number, tuple(runs), digits))
        for number, (runs, _) in enumerate(shards)
    ]


Weights = tuple[int, npt.NDArray[np.int64], npt.NDArray[np.bool_]]


def _weights(dataset: Dataset, settings: ExportSettings) -> Iterator[Weights]:
    """Of each shard: its number, what each row counts towards the size of a shard (a failure
    nothing), and which rows are to be there at all."""
    for shard in dataset.shards:
        rows = dataset.rows(shard, ["status", "bytes"])
        status = rows["status"].to_numpy()
        good = (status == "ok").astype(np.int64)
        sizes = rows["bytes"].fill_null(0).to_numpy() if settings.bytes_per_shard else 1
        yield shard, good * sizes, status != "dropped"


def cut(weights: Iterable[Weights], limit: int) -> Iterator[tuple[list[tuple[int, int, int]], int]]:
    """Runs of rows (shard, start, stop) whose weights sum to `limit` at most, in order.

    A row that is heavier by itself has a shard to itself; rows of no weight go with those before.
    With each list of runs comes how many of its rows are to be there.
    """
    runs: list[tuple[int, int, int]] = []
    used = rows = 0
    for shard, weight, there in weights:
        sums, start = np.cumsum(weight), 0
        while start < len(weight):
            before = int(sums[start - 1]) if start else 0
            stop = max(int(np.searchsorted(sums, before + limit - used, "right")), start)
            if stop == start and not used:
                stop = start + 1  # it is too heavy for any shard
            if stop > start:
                runs.append((shard, start, stop))
                used += int(sums[stop - 1]) - before
                rows += int(there[start:stop].sum())
            if stop < len(weight):
                yield runs, rows
                runs, used, rows = [], 0, 0
            start = stop
    if runs:
        yield runs, rows


@dataclass(frozen=True)
class ExportWork:
    """Writes one shard of the version at `version_url` to the folder `target`."""

    target: str
    version_url: str
    settings: ExportSettings
    masks_url: str | None = None  # the selection whose masks say which patches are dropped

    def __call__(self, value: ExportItem, todo: list[str]) -> dict[str, Part]:
        name, rows, counts = part_name(value.shard), list[dict[str, Any]](), Counter[str]()
        with write_whole(self.target, f"{name}.tar") as file:
            tar = TarWriter(file)  # type: ignore[arg-type]
            for number, (row, image) in enumerate(self._rows(value)):
                index = 10**value.digits * value.shard + number
                key = f"{index:0{value.digits + SHARD_DIGITS}d}"
                entry = _entry(row, key, self.settings.arrow_schema)
                if image is not None:
                    _add(tar, key, row["format"], image, entry)
                rows.append(entry)
                counts[entry["error_message"] or SUCCESS] += 1
            tar.close()
        table = pa.Table.from_pylist(rows, self.settings.arrow_schema)
        files = (
            file.part(f"{name}.tar"),
            _write_parquet(self.target, f"{name}.parquet", table),
            write_bytes(self.target, f"{name}_stats.json", _stats(rows, counts)),
        )
        dropped = dict(counts)
        kept = dropped.pop(SUCCESS, 0)
        return dict.fromkeys(todo, Part(name, files, len(rows), kept, dropped))

    def _rows(self, value: ExportItem) -> Iterator[tuple[dict[str, Any], bytes | None]]:
        """The rows of a shard that is to be, those dropped left out, with their images."""
        for shard, start, stop in value.runs:
            url = join(self.version_url, "rows", f"{part_name(shard)}.parquet")
            table = read_table(url).slice(start, stop - start)
            samples = read_samples(self.version_url, shard, table)
            masks = self._masks(shard)
            for row in table.to_pylist():
                if row["status"] == "ok":
                    mask = masks[row["row"]] if masks is not None else None
                    yield _without_patches(row, next(samples).image, mask)
                elif row["status"] == "rejected":
                    yield row, None

    def _masks(self, shard: int) -> list[bytes | None] | None:
        """For each row of a shard the patches that stay; None where all do."""
        if self.masks_url is None:
            return None
        table = read_table(join(self.masks_url, f"{part_name(shard)}.parquet"), ["patches"])
        return table["patches"].to_pylist()


def _without_patches(
    row: dict[str, Any], image: bytes, mask: bytes | None
) -> tuple[dict[str, Any], bytes]:
    """A row and its image with patches filled; upright, so that its sides may have changed."""
    if mask is None:
        return row, image
    made = drop_patches(image, mask)
    header = read_header(made)
    return row | {"width": header.width, "height": header.height}, made


def masks_url(version: Artifact) -> str:
    """The selection that a curated version holds; SluiceError where it leaves out no patch."""
    source, digest = version.settings.get("source", {}), version.settings.get("selection")
    if digest is not None:
        store = version.url.rstrip("/").rsplit("/", 2)[0]
        url = join(store, source["dataset"], source["version"], "selection", digest)
        made = load(url)
        plan = made.settings["plan"] if made else []
        if any(selector.get("patches") for selector in plan):
            return url
    raise SluiceError(
        f"{version.url} is of no plan that leaves out patches",
        "give a selector of the kind quantization `patches`, or export without --drop-patches",
    )


def _entry(row: Mapping[str, Any], key: str, schema: pa.Schema) -> dict[str, Any]:
    """A row of ROWS as img2dataset has it."""
    good = row["status"] == "ok"
    reason = row["reason"]
    status = SUCCESS if good else NOT_RESIZED if reason in RESIZING else NOT_FETCHED
    known = {
        **{name: row[name] for name in ("caption", "url")},
        "key": key,
        "status": status,
        "error_message": None if good else reason,
        "width": row["width"] if good else None,
        "height": row["height"] if good else None,
        "original_width": (row["original_width"] or row["width"]) if good else None,
        "original_height": (row["original_height"] or row["height"]) if good else None,
        "exif": "{}" if good else None,
        "sha256": row["sha256"] if good else None,
    }
    meta: Mapping[str, Any] = json.loads(row["meta"] or "{}")
    if good and isinstance(meta.get("exif"), str):
        known["exif"] = meta["exif"]
    more = {
        field.name: row[field.name] if field.name in row else _cell(meta.get(field.name), field)
        for field in schema
        if field.name not in known
    }
    return more | known


def _cell(value: Any, field: pa.Field) -> Any:
    """What rode along as a value of its column's type; null where it is of another."""
    kind = field.type
    if value is None:
        return None
    if pa.types.is_string(kind):
        return value if isinstance(value, str) else json.dumps(value)
    if pa.types.is_boolean(kind):
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if pa.types.is_floating(kind):
        return float(value)
    whole = float(value).is_integer() and -(2**63) <= value < 2**63
    return int(value) if whole else None


def _add(tar: TarWriter, key: str, extension: str, image: bytes, entry: Mapping[str, Any]) -> None:
    members = {
        extension: image,
        "json": json.dumps(entry, indent=4).encode(),
        "txt": (entry["caption"] or "").encode(),
    }
    for name in sorted(members):
        tar.add(f"{key}.{name}", members[name])


def _write_parquet(folder: str, path: str, table: pa.Table) -> FilePart:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return write_bytes(folder, path, buffer.getvalue())


def _stats(rows: Sequence[Mapping[str, Any]], counts: Mapping[str, int]) -> bytes:
    statuses = Counter(row["status"] for row in rows)
    stats = {
        "count": len(rows),
        "successes": statuses[SUCCESS],
        NOT_FETCHED: statuses[NOT_FETCHED],
        NOT_RESIZED: statuses[NOT_RESIZED],
        "duration": 0.0,
        "start_time": 0.0,
        "end_time": 0.0,
        "status_dict": dict(sorted(counts.items())),
    }
    return json.dumps(stats, indent=4).encode()
