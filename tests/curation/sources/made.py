"""What the tests of all kinds of source make and read."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from curation.fingerprint import source_fingerprint
from curation.settings import SourceSettings
from curation.sources import Record, Unit, needs_tables, open_source
from curation.sources.text_tables import TextTablesWork, text_tables_draft, text_tables_items
from infra.progress import SilentDisplay
from infra.runner import InlineRunner
from infra.stage import run_stage


def picture(colour: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def tar_bytes(members: list[tuple[str, bytes]], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def samples(count: int) -> list[tuple[str, bytes]]:
    members = []
    for index in range(count):
        members += [
            (f"{index:04d}.png", picture(index)),
            (f"{index:04d}.txt", b"caption %d" % index),
        ]
    return members


def records(settings: SourceSettings, rows_per_shard: int = 100) -> list[Record]:
    units = open_source(settings).units(rows_per_shard)
    return [record for unit in units for record in unit.records()]


def from_tar(folder: Path, data: bytes, name: str = "00000.tar") -> list[Record]:
    (folder / name).write_bytes(data)
    return records(SourceSettings(tars=str(folder / name)))


def reasons(found: list[Record]) -> list[str | None]:
    return [record.reason for record in found]


def write_parquet(path: Path, columns: dict[str, Any], group: int = 1000) -> SourceSettings:
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return SourceSettings(parquet=str(path))


def url_units(settings: SourceSettings, store: Path, rows_per_shard: int = 100) -> list[Unit]:
    """The units of tables of URLs; text goes through its stage first."""
    tables = None
    if needs_tables(settings):
        draft = text_tables_draft(str(store), "pool", settings, source_fingerprint([settings]))
        items, work = text_tables_items(settings), TextTablesWork(draft.url)
        made = run_stage("tables", {"": draft}, items, work, InlineRunner(), SilentDisplay())
        tables = made[""]
    return list(open_source(settings, tables).units(rows_per_shard))


def url_records(settings: SourceSettings, store: Path, rows_per_shard: int = 100) -> list[Record]:
    return [
        record for unit in url_units(settings, store, rows_per_shard) for record in unit.records()
    ]
