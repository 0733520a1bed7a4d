"""Kinds of source, one file each: tables of URLs, existing tars, Parquet, an image folder, ...

To add a kind: a file with a class like `TarSource` here, its name in `SOURCES`, and its field
in `curation.settings.SourceSettings`.
"""

from collections.abc import Callable, Mapping

from curation.settings import SourceSettings
from curation.sources.base import Record, Source, Unit
from curation.sources.folder import FolderSource
from curation.sources.parquet import ParquetSource
from curation.sources.tars import TarSource
from curation.sources.urls import UrlSource
from infra.artifacts import Artifact

SOURCES: Mapping[str, Callable[[SourceSettings], Source]] = {
    "tars": TarSource,
    "parquet": ParquetSource,
    "arrow": ParquetSource,
    "folder": FolderSource,
}

__all__ = ["SOURCES", "Record", "Source", "Unit", "open_source"]


def open_source(settings: SourceSettings, tables: Artifact | None = None) -> Source:
    """The source `settings` describe; nothing is listed or read yet.

    tables: what `text_tables` made of it, for tables of URLs that are text.
    """
    if settings.kind == "urls":
        return UrlSource(settings, tables)
    return SOURCES[settings.kind](settings)
