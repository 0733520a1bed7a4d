"""Existing WebDataset tars, img2dataset's among them: one tar is one shard."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

from curation.settings import SourceSettings
from curation.sources import base, img2dataset
from curation.sources.base import Record
from infra import filesystem
from infra.errors import SluiceError
from infra.shards import TarSample, read_tar

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
EMPTY = "empty_tar"
CUT = "truncated_tar"
_MISSING = (base.MISSING_IMAGE, base.MISSING_CAPTION)


@dataclass(frozen=True)
class TarUnit:
    """One tar. A whole sample has an image and a caption; what is not whole is refused.

    The images of a tar that is not compressed are used where they are, unless `copy` is set.
    beside: the Parquet file of the same name, if there is one: img2dataset says there what it
    could not fetch.
    """

    url: str
    label: str
    copy: bool = False
    beside: str | None = None

    @property
    def name(self) -> str:
        return self.url

    def records(self) -> Iterator[Record]:
        count = 0
        try:
            before = filesystem.state(self.url)
            with filesystem.open_read(self.url) as file:
                copy = self.copy or not _seekable(file)
                for sample in read_tar(file, base.EXTENSIONS):
                    if sample.error is None:
                        count += 1
                        yield self._whole(sample, copy)
                    else:
                        records = self._broken(sample, copy)
                        count += len(records)
                        yield from records
            if filesystem.state(self.url) != before:
                raise SluiceError(
                    f"{self.url} changed while it was read",
                    "let what writes it finish, then run again",
                )
            if self.beside is not None:
                for record in img2dataset.failed(self.beside, _beside(self.label)):
                    count += 1
                    yield record
        except FileNotFoundError as error:
            raise SluiceError(
                f"{self.url} is gone since the source was listed",
                "put it back, or run again: the source is listed anew",
            ) from error
        except OSError as error:
            raise SluiceError(
                f"cannot read {self.url}: {error.strerror or error}",
                "check its permissions and its disk or connection, then run again",
            ) from error
        if not count:
            yield Record(self.label, reason=EMPTY)

    def _source(self, sample: TarSample) -> str:
        return f"{self.label}#{sample.key}" if sample.key else self.label

    def _broken(self, sample: TarSample, copy: bool) -> list[Record]:
        """The record of where the tar broke, after that of a sample which was whole before."""
        broken = Record(self._source(sample), reason=sample.error)
        if not sample.members:
            return [broken]
        record = self._whole(sample, copy)
        if record.reason in _MISSING:
            return [replace(record, reason=sample.error)]
        if record.reason is None:
            broken = replace(broken, source=f"{self.label}, after {sample.key}")
        return [record, broken]

    def _whole(self, sample: TarSample, copy: bool) -> Record:
        record = base.from_members(self._source(sample), sample.members)
        if sample.offsets and not copy:
            record.key = sample.key
            for name, offset in sample.offsets.items():
                if name in base.IMAGES:
                    record.tar, record.offset = self.url, offset
        return record


def _seekable(file: BinaryIO) -> bool:
    """Whether a file can be read from any byte on; what some web servers send cannot."""
    try:
        file.seek(0)
    except (OSError, ValueError):
        return False
    return True


@dataclass(frozen=True)
class TarSource:
    """Tars by file, folder or pattern."""

    settings: SourceSettings

    def files(self) -> list[str]:
        """The tars, and the Parquet files beside them."""
        tars = self._tars()
        return sorted([*tars, *_those_beside(tars).values()])

    def _tars(self) -> list[str]:
        return base.list_source(self.settings.location, SUFFIXES, "tars")

    def units(self, rows_per_shard: int) -> Sequence[TarUnit]:
        files, copy = self._tars(), self.settings.copy_samples
        beside = _those_beside(files)
        named = zip(files, base.labels(files), strict=True)
        return [TarUnit(file, label, copy, beside.get(file)) for file, label in named]


def _beside(name: str) -> str:
    """a/00000.tar.gz -> a/00000.parquet"""
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)] + ".parquet"


def _those_beside(files: Sequence[str]) -> dict[str, str]:
    """The Parquet file beside each tar that has one: one listing for each of their folders."""
    folders = {file.rpartition("/")[0] for file in files}
    found = {
        parquet
        for folder in sorted(folders)
        for parquet in filesystem.list_files(filesystem.join(folder, "*.parquet"))
    }
    return {file: _beside(file) for file in files if _beside(file) in found}
