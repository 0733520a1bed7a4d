"""Parquet and Arrow files with the image bytes in a column: img2dataset's, Hugging Face's, ..."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

from curation.settings import SourceSettings
from curation.sources import base, columnar
from curation.sources.arrow import ArrowGroups
from curation.sources.base import Record
from curation.sources.columnar import DAMAGED, Groups, NotWholeError, ParquetGroups, Replaced
from infra.errors import SluiceError
from infra.shards import MEMBER_LIMIT

SUFFIXES = {"parquet": (".parquet", ".pq"), "arrow": (".arrow", ".feather", ".ipc")}
OPEN: Mapping[str, Callable[[BinaryIO, str], Groups]] = {
    "parquet": ParquetGroups,
    "arrow": ArrowGroups,
}
DEFAULTS = {"image": "jpg", "caption": "caption", "url": "url", "uid": "uid"}


@dataclass(frozen=True)
class ParquetUnit:
    """`count` rows of a file: those of its `groups` (Arrow: batches), less the first `skip`.

    columns: role (image, caption, url, uid) -> column. first: number in the file of row 0.
    """

    kind: str
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
        with columnar.open_raw(self.url) as raw:
            file = self._file(raw)
            names = columnar.riders(file.schema, dict(self.columns))
            for group in self.groups:
                expected = min(file.sizes[group] - skip, self.count - done)
                read = 0
                for rows in columnar.read_rows(file, names, group, skip, expected):
                    for row in rows:
                        yield self._record(row, done + read)
                        read += 1
                for index in range(read, expected):
                    yield Record(self._source(done + index), reason=DAMAGED)
                done, skip = done + expected, 0

    def _file(self, raw: BinaryIO) -> Groups:
        try:
            file = OPEN[self.kind](raw, self.url)
            held = sum(file.sizes[group] for group in self.groups)
        except (NotWholeError, IndexError) as error:
            raise columnar.changed(self.url) from error
        gone = {column for _, column in self.columns} - set(file.schema.names)
        if gone or held < self.skip + self.count:
            raise columnar.changed(self.url)
        return file

    def _source(self, index: int) -> str:
        return f"{self.label}#{self.first + index}"

    def _record(self, row: Mapping[str, Any], index: int) -> Record:
        named = dict(self.columns)
        cell = row[named["image"]]
        # Hugging Face keeps an image as a struct of bytes and path.
        image: bytes | None = cell.get("bytes") if hasattr(cell, "get") else cell
        said: Any = row[named["caption"]] if "caption" in named else None
        caption = base.text_of(said)
        caption = (caption.strip() or None) if caption else None
        reason = None
        if image is None:
            reason = base.MISSING_IMAGE
        elif len(image) > MEMBER_LIMIT:
            image, reason = None, base.MEMBER_TOO_LARGE
        elif "caption" not in named:  # the file has none, and "" is right
            caption = ""
        elif caption is None:
            reason = base.MISSING_CAPTION
        elif isinstance(said, Replaced):
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


@dataclass(frozen=True)
class ParquetSource:
    """Parquet or Arrow files by file, folder or pattern."""

    settings: SourceSettings

    def files(self) -> list[str]:
        kind = self.settings.kind
        return base.list_source(self.settings.location, SUFFIXES[kind], kind)

    def units(self, rows_per_shard: int) -> Sequence[ParquetUnit]:
        """Runs of whole row groups; a row group larger than a shard is cut."""
        files = self.files()
        units: list[ParquetUnit] = []
        for url, label in zip(files, base.labels(files), strict=True):
            units += self._file_units(url, label, rows_per_shard)
        if not units:
            raise SluiceError(
                f"the {self.settings.kind.title()} files at {self.settings.location} have no rows",
                f"check the source's `{self.settings.kind}`",
            )
        return units

    def _file_units(self, url: str, label: str, rows_per_shard: int) -> Iterator[ParquetUnit]:
        kind = self.settings.kind
        with columnar.open_raw(url) as raw:
            file = OPEN[kind](raw, url)
        columns = tuple(self._columns(url, file.schema).items())
        for groups, first, skip, count in columnar.runs(file.sizes, rows_per_shard):
            yield ParquetUnit(kind, url, label, columns, groups, first, skip, count)

    def _columns(self, url: str, schema: pa.Schema) -> dict[str, str]:
        """Which column has which role; SluiceError where one is missing or of a wrong type."""
        found: dict[str, str] = {}
        for role, default in DEFAULTS.items():
            given: str | None = getattr(self.settings, role)
            if (role, given) == ("caption", ""):
                continue
            asked = given is not None or role in ("image", "caption")
            asked = asked or (role == "uid" and self.settings.subset is not None)
            name = given or default
            if name not in schema.names:
                if asked:
                    raise SluiceError(
                        f"{url} has no column {name!r} for the {role}; it has "
                        f"{', '.join(schema.names)}",
                        f"name the right one in the source: `{role}: COLUMN`"
                        + (", or say `caption: ''` for images alone" if role == "caption" else ""),
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
        return columnar.is_binary(kind)
    return columnar.is_text(kind)
