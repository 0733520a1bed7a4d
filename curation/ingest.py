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

from curation.headers import FORMATS, read_header
from curation.outcomes import NOT_AN_IMAGE, UNSUPPORTED_FORMAT
from curation.settings import COLUMNS, SourceSettings
from curation.sources import Record, Unit, open_source
from curation.sources.base import BAD_JSON, clean, labels
from infra import filesystem
from infra.artifacts import Part, Spec
from infra.dataset import ROW_BITS, ShardWriter, make_uid, part_name, sample_key
from infra.digests import digest
from infra.errors import SluiceError
from infra.filesystem import join
from infra.stage import Draft, Item

CODE = 2
RECORDED = {*COLUMNS, "copy_samples"}  # settings of a source that its rows depend on
ROWS_PER_SHARD = 512


def source_fingerprint(sources: Sequence[SourceSettings]) -> str:
    """16 hex characters over what the sources' files hold, wherever they lie.

    Name, size and SHA-256 of each file; on an object store its entity tag in place of the hash.
    A source with `fingerprint` set is taken at its word. Raises SluiceError for a missing source.
    """
    states: list[Any] = []
    for source in sources:
        if source.fingerprint is not None:
            states.append(source.fingerprint)
            continue
        files = open_source(source).files()
        states.append(
            [[label, *_state(file)] for file, label in zip(files, labels(files), strict=True)]
        )
    return digest(states)


def _state(url: str) -> tuple[int, str]:
    info = filesystem.info(url)
    tag = next((str(info[name]) for name in filesystem.TAGS if info.get(name)), None)
    if tag is None:
        try:
            with filesystem.open_read(url) as file:
                tag = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        except OSError as error:
            raise SluiceError(
                f"cannot read {url}: {error.strerror or error}", "check its permissions"
            ) from error
    return int(info.get("size") or 0), tag


def ingest_draft(
    store: str,
    name: str,
    sources: Sequence[SourceSettings],
    fingerprint: str,
    rows_per_shard: int = ROWS_PER_SHARD,
) -> Draft:
    """The dataset version `<store>/<name>/<digest>` to be.

    fingerprint: of the sources' bytes, by `source_fingerprint` or from whoever made them. Where
    the files lie is no part of the digest: moved data is the same data.
    """
    settings = {
        "name": name,
        "sources": [
            {"kind": source.kind, **source.model_dump(include=RECORDED, exclude_defaults=True)}
            for source in sources
        ],
        "fingerprint": fingerprint,
        "rows_per_shard": rows_per_shard,
    }
    spec = Spec("dataset", "curation.ingest", settings, (), CODE)
    return Draft(join(store, name, spec.digest), spec)


@dataclass(frozen=True)
class IngestItem:
    """What becomes one shard."""

    shard: int
    unit: Unit


def ingest_items(
    sources: Sequence[SourceSettings], rows_per_shard: int = ROWS_PER_SHARD
) -> list[Item]:
    """One item for each shard, in the sources' order: a tar, a run of row groups, a run of files.

    Raises SluiceError for a source that is missing, empty, or lacks a column.
    """
    units = [unit for source in sources for unit in open_source(source).units(rows_per_shard)]
    if not units:
        raise SluiceError("there is no source to ingest", "name tars, Parquet files or a folder")
    return [Item(part_name(shard), IngestItem(shard, unit)) for shard, unit in enumerate(units)]


@dataclass(frozen=True)
class IngestWork:
    """Writes one shard of the version at `url`: its rows, and those images that are copied."""

    url: str

    def __call__(self, value: IngestItem, todo: list[str]) -> dict[str, Part]:
        unit, states = value.unit, Counter[str]()
        with ShardWriter(self.url, value.shard) as writer:
            for number, record in enumerate(unit.records()):
                if number == 1 << ROW_BITS:
                    raise SluiceError(
                        f"{unit.name} holds more than {1 << ROW_BITS} samples, the most of a shard",
                        "split it into smaller files",
                    )
                row, image = ingest_row(value.shard, number, record)
                if image is not None and record.tar is not None:
                    row |= {"tar": writer.refer(record.tar), "offset": record.offset}
                    image = None
                writer.add(row, image)
                states[row["reason"] or ""] += 1
        kept, rows = states.pop("", 0), states.total()
        name, dropped = part_name(value.shard), dict(states)
        return dict.fromkeys(todo, Part(name, tuple(writer.files), kept + rows, kept, dropped))


def refuse_nothing(
    sources: Sequence[SourceSettings], parts: Mapping[str, list[Part]]
) -> dict[str, dict[str, Any]]:
    """Before the commit: a version must hold a sample. Raises SluiceError with the reasons."""
    all_parts = [part for made in parts.values() for part in made]
    if not any(part.kept for part in all_parts):
        dropped = sum((Counter(part.dropped) for part in all_parts), Counter[str]())
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
    try:
        meta = _meta(record.meta)
    except RecursionError:  # nested deeper than anything that is meant
        meta, reason = None, reason or BAD_JSON
    # A record without content still needs an identity: then it is where it stood.
    content = image or record.caption or record.url
    fallback = None if content else record.source.encode()
    row = {
        "uid": make_uid(record.url, record.caption, image or fallback, record.uid),
        "shard": shard,
        "row": number,
        "status": "ok" if reason is None else "rejected",
        "reason": reason,
        "key": record.key or sample_key(shard, number),
        "source": record.source,
        "url": record.url,
        "caption": record.caption,
        "sha256": hashlib.sha256(image).hexdigest() if image is not None else None,
        "bytes": len(image) if image is not None else None,
        "format": header.format,
        "width": header.width,
        "height": header.height,
        "http_status": record.http_status,
        "meta": meta,
    }
    return row, image if reason is None else None


def _meta(meta: Mapping[str, Any]) -> str | None:
    """What rode along, as JSON that every reader takes."""
    if not meta:
        return None
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
