"""Kinds of source, one file each: tables of URLs, existing tars, Parquet, an image folder, ...

To add a kind: a file with a class like `TarSource` here, its name in `SOURCES`, and its field
in `curation.settings.SourceSettings`.
"""

from collections.abc import Callable, Mapping

from curation.settings import COLUMNS, SourceSettings
from curation.sources.base import Record, Source, Unit
from curation.sources.detect import detect
from curation.sources.folder import FolderSource
from curation.sources.parquet import ParquetSource
from curation.sources.subset import SubsetSource, SubsetUnit, records_of, subset_digest
from curation.sources.tars import TarSource
from curation.sources.urls import UrlSource, UrlUnit, needs_tables
from infra.artifacts import Artifact

SOURCES: Mapping[str, Callable[[SourceSettings], Source]] = {
    "tars": TarSource,
    "parquet": ParquetSource,
    "arrow": ParquetSource,
    "folder": FolderSource,
}

__all__ = [
    "SOURCES",
    "Record",
    "Source",
    "Unit",
    "describe",
    "detect",
    "is_fetched",
    "needs_tables",
    "open_source",
    "records_of",
]


def is_fetched(unit: Unit) -> bool:
    """Whether the records of a unit are still to be fetched."""
    return isinstance(unit.unit if isinstance(unit, SubsetUnit) else unit, UrlUnit)


def open_source(settings: SourceSettings, tables: Artifact | None = None) -> Source:
    """The source `settings` describe; nothing is listed or read yet.

    tables: what `text_tables` made of it, for tables of URLs that are text.
    """
    if settings.kind == "urls":
        source: Source = UrlSource(settings, tables)
    else:
        source = SOURCES[settings.kind](settings)
    return source if settings.subset is None else SubsetSource(source, settings.subset)


def describe(settings: SourceSettings) -> dict[str, str]:
    """What of a source's settings a version is made from, beside the bytes of its files.

    Its kind, its columns, whether tars are copied, the SHA-256 of its subset file; not where the
    files lie.
    """
    columns = settings.model_dump(include={*COLUMNS, "copy_samples"}, exclude_defaults=True)
    subset = {"subset": subset_digest(settings.subset)} if settings.subset else {}
    return {"kind": settings.kind, **columns, **subset}
