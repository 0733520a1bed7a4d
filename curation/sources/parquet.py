"""Parquet files with the image bytes in a column: img2dataset's, Hugging Face's, one's own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from curation.settings import SourceSettings
from curation.sources import base
from curation.sources.base import Record
from infra import filesystem
from infra.errors import SluiceError
from infra.shards import MEMBER_LIMIT

SUFFIXES = (".parquet", ".pq")
DEFAULTS = {"image": "jpg", "caption": "caption", "url": "url", "uid": "uid"}
DAMAGED = "damaged_row_group"
BATCH = 256  # rows in memory at once while a row group is read


@dataclass(frozen=True)
class ParquetUnit:
    """`count` rows of a file: those of its `groups`, less the first `skip`.

    columns: role (image, caption, url, uid) -> column. first: number in the file of row 0.
    """

    url: str
    label: str
    columns: tuple[tuple[str, str], ...]
    groups: tuple[int, ...]
    first: int
    skip: int
    count: int

    @property
    def name(self) -> str:
        return f"{self.url} rows {self.first} to {self.first + self.count - 1}"

    def records(self) -> Iterator[Record]:
        """One record for every row; rows of a damaged row group are refused one by one."""
        done, skip = 0, self.skip
        with _open(self.url) as raw:
            file = self._file(raw)
            images = {column for _, column in self.columns}
            names = [
                field.name
                for field in file.schema_arrow
                if field.name in images or not _is_binary(field.type)
            ]
            for group in self.groups:
                expected = min(file.metadata.row_group(group).num_rows - skip, self.count - done)
                read = 0
                for rows in _rows(file, names, group, skip, expected):
                    for row in rows:
                        yield self._record(row, done + read)
                        read += 1
                for index in range(read, expected):
                    yield Record(self._source(done + index), reason=DAMAGED)
                done, skip = done + expected, 0

    def _file(self, raw: BinaryIO) -> pq.ParquetFile:
        try:
            file = pq.ParquetFile(raw)
            held = sum(file.metadata.row_group(group).num_rows for group in self.groups)
        except (pa.ArrowException, OSError, IndexError) as error:
            raise _changed(self.url) from error
        if held < self.skip + self.count:
            raise _changed(self.url)
        return file

    def _source(self, index: int) -> str:
        return f"{self.label}#{self.first + index}"

    def _record(self, row: Mapping[str, Any], index: int) -> Record:
        named = dict(self.columns)
        cell = row[named["image"]]
        # Hugging Face keeps an image as a struct of bytes and path.
        image: bytes | None = cell.get("bytes") if hasattr(cell, "get") else cell
        caption = base.text_of(row[named["caption"]])
        caption = (caption.strip() or None) if caption else None
        reason = None
        if image is None:
            reason = base.MISSING_IMAGE
        elif len(image) > MEMBER_LIMIT:
            image, reason = None, base.MEMBER_TOO_LARGE
        elif caption is None:
            reason = base.MISSING_CAPTION
        elif isinstance(row[named["caption"]], _Replaced):
            reason = base.CAPTION_NOT_UTF8
        texts = {role: row.get(named[role]) for role in ("url", "uid") if role in named}
        left_out = {*named.values(), *base.NO_META}
        return Record(
            self._source(index),
            image=image,
            caption=caption,
            url=base.text_of(texts.get("url")),
            uid=base.text_of(texts.get("uid")),
            meta={name: value for name, value in row.items() if name not in left_out},
            reason=reason,
        )


def _rows(
    file: pq.ParquetFile, names: list[str], group: int, skip: int, count: int
) -> Iterator[list[dict[str, Any]]]:
    """Rows `skip` to `skip + count` of a row group in pieces; stops early where it is damaged."""
    try:
        batches = file.iter_batches(BATCH, row_groups=[group], columns=names, use_threads=False)
        for batch in batches:
            passed = min(skip, batch.num_rows)
            skip -= passed
            piece = batch.slice(passed, count)
            count -= piece.num_rows
            yield _cells(piece)
            if not count:
                return
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the network failed, not the file
        return


class _Replaced(str):
    """Text whose bytes were no UTF-8."""


def _cells(piece: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a batch; Parquet does not promise that text is UTF-8."""
    try:
        return piece.to_pylist()
    except UnicodeDecodeError:
        columns = [
            [_text(value) for value in column.cast(pa.binary()).to_pylist()]
            if pa.types.is_string(column.type)
            else column.to_pylist()
            for column in piece.columns
        ]
        names = piece.schema.names
        return [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _text(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return _Replaced(value.decode("utf-8", "replace"))


def _changed(url: str) -> SluiceError:
    return SluiceError(
        f"{url} has changed since the source was listed", "run again: the source is listed anew"
    )


def _open(url: str) -> BinaryIO:
    try:
        return filesystem.open_read(url)
    except OSError as error:
        raise SluiceError(
            f"cannot read {url}: {error.strerror or error}", "check the path and its permissions"
        ) from error


@dataclass(frozen=True)
class ParquetSource:
    """Parquet files by file, folder or pattern."""

    settings: SourceSettings

    def files(self) -> list[str]:
        return base.list_source(self.settings.location, SUFFIXES, "parquet")

    def units(self, rows_per_shard: int) -> Sequence[ParquetUnit]:
        """Runs of whole row groups; a row group larger than a shard is cut."""
        files = self.files()
        units: list[ParquetUnit] = []
        for url, label in zip(files, base.labels(files), strict=True):
            units += self._file_units(url, label, rows_per_shard)
        if not units:
            raise SluiceError(
                f"the Parquet files at {self.settings.location} have no rows",
                "check the source's `parquet`",
            )
        return units

    def _file_units(self, url: str, label: str, rows_per_shard: int) -> Iterator[ParquetUnit]:
        try:
            with _open(url) as raw:
                file = pq.ParquetFile(raw)
                sizes = [
                    file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)
                ]
                columns = tuple(self._columns(url, file.schema_arrow).items())
        except (pa.ArrowException, OSError) as error:
            raise SluiceError(
                f"{url} is no whole Parquet file: {error}",
                "fetch or write it again, or take it out of the source",
            ) from error
        first = 0
        run: list[int] = []
        held = 0
        for group, size in enumerate(sizes):
            if run and held + size > rows_per_shard:
                yield ParquetUnit(url, label, columns, tuple(run), first, 0, held)
                first, run, held = first + held, [], 0
            if size > rows_per_shard:
                for skip in range(0, size, rows_per_shard):
                    count = min(rows_per_shard, size - skip)
                    yield ParquetUnit(url, label, columns, (group,), first + skip, skip, count)
                first += size
            elif size:
                run.append(group)
                held += size
        if run:
            yield ParquetUnit(url, label, columns, tuple(run), first, 0, held)

    def _columns(self, url: str, schema: pa.Schema) -> dict[str, str]:
        """Which column has which role; SluiceError where one is missing or of a wrong type."""
        found: dict[str, str] = {}
        for role, default in DEFAULTS.items():
            given: str | None = getattr(self.settings, role)
            asked = given is not None or role in ("image", "caption")
            name = given or default
            if name not in schema.names:
                if asked:
                    raise SluiceError(
                        f"{url} has no column {name!r} for the {role}; it has "
                        f"{', '.join(schema.names)}",
                        f"name the right one in the source: `{role}: COLUMN`",
                    )
            elif _fits(role, schema.field(name).type):
                found[role] = name
            elif asked:
                raise SluiceError(
                    f"{url}: the {role} column {name!r} holds {schema.field(name).type}, not "
                    f"{'bytes' if role == 'image' else 'text'}",
                    f"name another column in the source: `{role}: COLUMN`",
                )
        return found


def _fits(role: str, kind: pa.DataType) -> bool:
    if role == "image":
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        return _is_binary(kind)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)  # nothing but nulls
    )


def _is_binary(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )
