"""A folder of images, each with its caption in a text file of the same name."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from curation.settings import SourceSettings
from curation.sources import base
from curation.sources.base import Record
from infra import filesystem
from infra.errors import SluiceError
from infra.shards import MEMBER_LIMIT

SUFFIXES = tuple(f".{extension}" for extension in base.EXTENSIONS)
UNREADABLE = "unreadable_file"


@dataclass(frozen=True)
class FolderUnit:
    """Some samples of a folder: for each its label and the URLs of its files by extension."""

    samples: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]

    @property
    def name(self) -> str:
        return f"{self.samples[0][0]} ... {self.samples[-1][0]}"

    def records(self) -> Iterator[Record]:
        for label, files in self.samples:
            try:
                yield base.from_members(label, dict(_members(files)))
            except (FileNotFoundError, PermissionError):
                yield Record(label, reason=UNREADABLE)
            except OSError as error:
                raise SluiceError(
                    f"cannot read the files of {label}: {error.strerror or error}",
                    "check the disk or the connection, then run again",
                ) from error


def _members(files: Sequence[tuple[str, str]]) -> Iterator[tuple[str, bytes]]:
    for extension, url in files:
        if filesystem.size(url) > MEMBER_LIMIT:
            yield f"{extension}#too_large", b""
        else:
            yield extension, filesystem.read_bytes(url)


@dataclass(frozen=True)
class FolderSource:
    """NAME.jpg, NAME.txt and perhaps NAME.json in a folder and its folders.

    Other files, and hidden ones, are no samples.
    """

    settings: SourceSettings

    def files(self) -> list[str]:
        location = self.settings.location
        files = base.list_source(location, SUFFIXES, "folder")
        samples = [file for file in files if file.lower().endswith(SUFFIXES)]
        if not samples:
            raise SluiceError(
                f"no image at {location}", "check the source's `folder`: images beside .txt files"
            )
        return samples

    def units(self, rows_per_shard: int) -> Sequence[FolderUnit]:
        files = self.files()
        groups: dict[str, list[tuple[str, str]]] = {}
        for file, label in zip(files, base.labels(files), strict=True):
            name, _, extension = label.rpartition(".")
            extension = extension.lower()
            taken = {known.partition("#")[0] for known, _ in groups.setdefault(name, [])}
            groups[name].append((f"{extension}#2" if extension in taken else extension, file))
        samples = [(name, tuple(members)) for name, members in sorted(groups.items())]
        return [
            FolderUnit(tuple(samples[start : start + rows_per_shard]))
            for start in range(0, len(samples), rows_per_shard)
        ]
