"""Kinds of source, one file each: existing tars, Parquet with image bytes, an image folder.

To add a kind: a file with a class like `TarSource` here, its name in `SOURCES`, and its field
in `curation.settings.SourceSettings`.
"""

from collections.abc import Callable, Mapping

from curation.settings import SourceSettings
from curation.sources.base import Record, Source, Unit
from curation.sources.folder import FolderSource
from curation.sources.parquet import ParquetSource
from curation.sources.tars import TarSource

SOURCES: Mapping[str, Callable[[SourceSettings], Source]] = {
    "tars": TarSource,
    "parquet": ParquetSource,
    "folder": FolderSource,
}

__all__ = ["SOURCES", "Record", "Source", "Unit", "open_source"]


def open_source(settings: SourceSettings) -> Source:
    """The source `settings` describe; nothing is listed or read yet."""
    return SOURCES[settings.kind](settings)
