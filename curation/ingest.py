"""Ingest: sources to a dataset version in which every input record has exactly one row.

A record that cannot be a sample is a row with status "rejected" and a reason; it never stops
its shard. The original image bytes are kept; nothing is decoded beyond the header.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson

from curation.fetch.blocklists import blocked_row
from curation.fetch.observed import Observed, write_observed
from curation.headers import FORMATS, read_header
from curation.intake import PLAIN, Intake, uid_of, whole
from curation.outcomes import BLOCKLISTED, NOT_AN_IMAGE, UNSUPPORTED_FORMAT
from curation.settings import SourceSettings
from curation.sources import Record, Unit, describe, is_fetched, open_source, records_of
from curation.sources.base import BAD_JSON, clean
from infra.artifacts import Artifact, Part, Spec
from infra.dataset import ROW_BITS, ShardWriter, part_name, sample_key
from infra.errors import SluiceError
from infra.filesystem import join
from infra.stage import Draft, Item

CODE = 2
ROWS_PER_SHARD = 512
EXPECTED = "expected_hash"  # in `meta`: what the bytes were promised to be, for another try
META_JSON = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATETIME


def ingest_draft(
    store: str,
    name: str,
    sources: Sequence[SourceSettings],
    fingerprint: str,
    rows_per_shard: int = ROWS_PER_SHARD,
    intake: Intake = PLAIN,
) -> Draft:
    """The dataset version `<store>/<name>/<digest>` to be.

    fingerprint: of the sources' bytes, by `curation.fingerprint` or from whoever made them. Where
    the files lie is no part of the digest: moved data is the same data.
    """
    settings = {
        "name": name,
        "sources": [describe(source) for source in sources],
        "fingerprint": fingerprint,
        "rows_per_shard": rows_per_shard,
        **intake.policy(any(source.kind == "urls" for source in sources)),
    }
    spec = Spec("dataset", "curation.ingest", settings, (), CODE)
    return Draft(join(store, name, spec.digest), spec)


@dataclass(frozen=True)
class IngestItem:
    """What becomes one shard."""

    shard: int
    unit: Unit


def ingest_items(
    sources: Sequence[SourceSettings],
    rows_per_shard: int = ROWS_PER_SHARD,
    tables: Mapping[int, Artifact | None] | None = None,
) -> list[Item]:
    """One item for each shard, in the sources' order: a tar, a run of rows, a run of files.

    tables: what `text_tables` made of the sources that need it, by their positions. Raises
    SluiceError for a source that is missing, empty, or lacks a column.
    """
    tables = tables or {}
    units = [
        unit
        for index, source in enumerate(sources)
        for unit in open_source(source, tables.get(index)).units(rows_per_shard)
    ]
    if not units:
        raise SluiceError("there is no source to ingest", "name tars, Parquet files or a folder")
    return [Item(part_name(shard), IngestItem(shard, unit)) for shard, unit in enumerate(units)]


@dataclass(frozen=True)
class IngestWork:
    """Writes one shard of the version at `url`: its rows, and those images that are copied."""

    url: str
    intake: Intake = PLAIN

    def __call__(self, value: IngestItem, todo: list[str]) -> dict[str, Part]:
        unit, states, tally = value.unit, Counter[str](), Counter[str]()
        observed = Observed() if is_fetched(unit) else None
        records = whole(records_of(unit, tally), self.intake, observed)
        with ShardWriter(self.url, value.shard) as writer:
            for number, record in enumerate(records):
                if number == 1 << ROW_BITS:
                    raise SluiceError(
                        f"{unit.name} holds more than {1 << ROW_BITS} samples, the most of a shard",
                        "split it into smaller files",
                    )
                row, image = ingest_row(value.shard, number, record)
                if image is not None and record.tar is not None:
                    row["tar"], row["offset"] = writer.refer(record.tar), record.offset
                    image = None
                writer.add(row, image)
                states[row["reason"] or ""] += 1
        if observed is not None:
            write_observed(self.url, part_name(value.shard), observed)
        kept, rows = states.pop("", 0), states.total()
        name, files = part_name(value.shard), tuple(writer.files)
        part = Part(name, files, kept + rows, kept, dict(states), dict(tally))
        return dict.fromkeys(todo, part)


def refuse_nothing(
    sources: Sequence[SourceSettings], parts: Mapping[str, Sequence[Part]]
) -> dict[str, dict[str, Any]]:
    """Before the commit: a version must hold a sample. Raises SluiceError with the reasons."""
    if not any(part.kept for made in parts.values() for part in made):
        found = (Counter(part.dropped) for made in parts.values() for part in made)
        dropped = sum(found, Counter[str]())
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
        raise SluiceError(
            f"no sample in {', '.join(source.location for source in sources)}: {counts}",
            "see that these are tars, Parquet files or folders of images with captions",
        )
    return {}


def ingest_row(shard: int, number: int, record: Record) -> tuple[dict[str, Any], bytes | None]:
    """The row (schema ROWS) of a record, and the image bytes where it is a sample."""
    image, reason = record.image, record.reason
    header = read_header(image or b"")
    if reason is None and header.format is None:
        reason = NOT_AN_IMAGE
    elif reason is None and header.format not in FORMATS:
        reason = UNSUPPORTED_FORMAT
    known = record.meta
    if record.expected is not None:
        known = {**known, EXPECTED: record.expected}
    try:
        meta = _meta(known)
    except RecursionError:  # nested deeper than anything that is meant
        meta, reason = None, reason or BAD_JSON
    sha256 = _sha256(record)
    known_hash = sha256 if image else None
    row = {
        "uid": uid_of(record, known_hash),
        "shard": shard,
        "row": number,
        "status": "ok" if reason is None else "rejected",
        "reason": reason,
        "key": record.key or sample_key(shard, number),
        "source": record.source,
        "url": record.url,
        "caption": record.caption,
        "sha256": sha256,
        "bytes": len(image) if image is not None else None,
        "format": header.format,
        "width": header.width,
        "height": header.height,
        "original_width": record.original.width if record.original else None,
        "original_height": record.original.height if record.original else None,
        "http_status": record.http_status,
        "tar": None,
        "offset": None,
        "meta": meta,
    }
    if reason == BLOCKLISTED:
        return blocked_row(row), None
    return row, image if reason is None else None


def _sha256(record: Record) -> str | None:
    if record.original is not None:
        return record.original.sha256
    return hashlib.sha256(record.image).hexdigest() if record.image is not None else None


def _meta(meta: Mapping[str, Any]) -> str | None:
    """What rode along, as JSON that every reader takes."""
    if not meta:
        return None
    try:
        return orjson.dumps(meta, option=META_JSON).decode()
    except TypeError:  # not JSON's own types, or lone surrogates, or beyond 64 bits
        pass
    text = json.dumps(_plain(meta), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return clean(text)


def _plain(value: Any) -> Any:
    """JSON's own types: other numbers than finite ones are null, dates and the like text."""
    if isinstance(value, Mapping):
        entries = cast(Mapping[Any, Any], value)
        return {str(key): _plain(entry) for key, entry in entries.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in cast(Sequence[Any], value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return value.hex() if isinstance(value, bytes) else str(value)
