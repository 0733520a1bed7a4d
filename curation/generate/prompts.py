"""Prompts: each distinct one once, in the order in which they first came.

<store>/<dataset>/prompts/<digest>/prompts.parquet    columns of SCHEMA, one row per prompt

Prompts come from the internet. Those that are no prompt keep a row and a reason, so that what was
asked for and not drawn is seen; how many lines or captions were copies, the manifest tells.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from curation.columns import dataset_at
from curation.fingerprint import file_states, source_fingerprint
from curation.generate.reasons import PROMPT_CONTROL_CHARACTERS, PROMPT_TOO_LONG
from curation.generate.settings import LONGEST, PromptSettings
from curation.ingest import ROWS_PER_SHARD
from curation.settings import SourceSettings
from curation.sources import describe, open_source, records_of
from curation.sources.base import clean
from curation.sources.urls import needs_tables
from infra import filesystem
from infra.artifacts import Artifact, Part, Spec
from infra.dataset import write_table
from infra.errors import SluiceError
from infra.filesystem import join
from infra.stage import Draft, Item

CODE = 1
FILE = "prompts.parquet"
ALL = Item("all", None)
MOST = 10_000_000  # distinct prompts: some 200 bytes of memory each
LINE = 4 * LONGEST + 2  # bytes of a line that may be a prompt
SHOWN = 200  # characters that are kept of a prompt that is too long
DUPLICATE, NOT_CHOSEN = "duplicate_prompt", "not_chosen"
SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("label", pa.string()),  # its class, where one is known
        ("reason", pa.string()),  # why nothing is drawn of it, else null
    ]
)
# Marks that turn the direction of writing: what is read is then not what is drawn.
_TURNS = re.compile("[\u202a-\u202e\u2066-\u2069]")


class Prompt(NamedTuple):
    """A row of SCHEMA."""

    prompt: str
    label: str | None = None
    reason: str | None = None


def prompts_draft(
    store: str, name: str, settings: PromptSettings, captions: tuple[str, str] | None
) -> Draft:
    """The prompts to be, beside the dataset `name`; captions: URL and digest of that version.

    Raises SluiceError for a file or source that is not there.
    """
    identity: dict[str, Any] = {"label": settings.label, "limit": settings.limit}
    if settings.classes:
        identity |= {"classes": settings.classes, "templates": settings.templates}
    if settings.sources:
        identity["sources"] = [describe(source) for source in settings.sources]
        identity["fingerprint"] = source_fingerprint(settings.sources, store)
    if settings.file is not None:
        identity["file"] = _state(settings.file, store)
    parents = (captions[1],) if captions else ()
    spec = Spec("prompts", "curation.generate.prompts", identity, parents, CODE)
    return Draft(join(store, name, "prompts", spec.digest), spec)


def _state(file: str, store: str) -> list[Any]:
    if not filesystem.exists(file):
        raise SluiceError(f"there is no prompt file {file}", "check the path of `prompts.file`")
    return list(file_states([file], store)[0])


@dataclass(frozen=True)
class PromptsWork:
    """Writes the prompts at `url`: one unit of work. captions: the URL of that version."""

    url: str
    settings: PromptSettings
    captions: str | None = None

    def __call__(self, value: object, todo: Sequence[str]) -> dict[str, Part]:
        found, tally = distinct(self._every())
        chosen = choose(found, self.settings.limit)
        tally[NOT_CHOSEN] = len(found) - len(chosen)
        good = sum(prompt.reason is None for prompt in chosen)
        dropped = {name: count for name, count in tally.items() if count}
        if not good:
            counts = ", ".join(f"{count} {name}" for name, count in sorted(dropped.items()))
            raise SluiceError(
                f"no prompt to draw: {counts or 'there is no text'}",
                "see that `prompts` names a file or captions with text in them",
            )
        for prompt in chosen:
            if prompt.reason is not None:
                dropped[prompt.reason] = dropped.get(prompt.reason, 0) + 1
        columns = zip(*chosen, strict=True)
        table = pa.table([pa.array(each, pa.string()) for each in columns], names=SCHEMA.names)
        file = write_table(self.url, FILE, table)
        rows = good + sum(dropped.values())
        part = Part(ALL.name, (file,), rows, good, dropped, {"prompts": len(chosen)})
        return dict.fromkeys(todo, part)

    def _every(self) -> Iterator[Prompt]:
        asked = self.settings
        for template in asked.templates if asked.classes else ():
            for name in asked.classes:  # innermost: classes alternate, whatever is looked at
                yield cleaned(template.replace("{}", name), name)
        if self.captions is not None:
            yield from version_captions(self.captions, asked.label)
        for source in asked.sources:
            yield from source_captions(source, asked.label)
        if asked.file is not None:
            yield from file_lines(asked.file)


def cleaned(text: str, label: str | None = None) -> Prompt:
    """A prompt with single spaces, or the reason why it is none, shown as far as it can be."""
    text = " ".join(text.split())
    if len(text) > LONGEST:
        return Prompt(_shown(text), label, PROMPT_TOO_LONG)
    if _TURNS.search(text) or any(unicodedata.category(sign) in ("Cc", "Cs") for sign in text):
        return Prompt(_shown(text), label, PROMPT_CONTROL_CHARACTERS)
    return Prompt(text, label)


def _shown(text: str) -> str:
    """Its beginning, without what a terminal or a page would obey."""
    text = _TURNS.sub("\ufffd", text[:SHOWN])
    return "".join("\ufffd" if unicodedata.category(s) in ("Cc", "Cs") else s for s in text)


def distinct(prompts: Iterable[Prompt]) -> tuple[list[Prompt], Counter[str]]:
    """Each prompt once, with the class that it first came with, and how many were copies."""
    found: dict[bytes, Prompt] = {}
    tally = Counter[str]()
    for prompt in prompts:
        if not prompt.prompt:
            continue
        key = sha256(f"{prompt.reason or ''}\0{prompt.prompt}".encode()).digest()[:16]
        if key in found:
            tally[DUPLICATE] += 1
            continue
        found[key] = prompt
        if len(found) > MOST:
            raise SluiceError(
                f"there are more than {MOST:,} distinct prompts",
                "name fewer captions: a version or a source that holds a part of them",
            )
    return list(found.values()), tally


def choose(prompts: Sequence[Prompt], limit: int | None) -> list[Prompt]:
    """At most `limit` of the prompts, those of lowest SHA-256, in the order they have."""
    if limit is None or len(prompts) <= limit:
        return list(prompts)
    keys = sorted(range(len(prompts)), key=lambda i: sha256(prompts[i].prompt.encode()).digest())
    return [prompts[place] for place in sorted(keys[:limit])]


def version_captions(url: str, label: str) -> Iterator[Prompt]:
    """The captions of a dataset version's samples, with their classes."""
    dataset = dataset_at(url)
    for shard in dataset.shards:
        for row in dataset.rows(shard, ["caption", "status", "meta"]).to_pylist():
            if row["status"] == "ok":
                yield cleaned(row["caption"] or "", _label(json.loads(row["meta"] or "{}"), label))


def source_captions(source: SourceSettings, label: str) -> Iterator[Prompt]:
    """The captions of a source's records that have one; its images are not looked at."""
    if needs_tables(source):
        raise SluiceError(
            f"prompts.sources names {source.location}, a table of text",
            "ingest it and name the version as prompts.captions, or give a Parquet table",
        )
    for unit in open_source(source).units(ROWS_PER_SHARD):
        for record in records_of(unit, Counter[str]()):
            yield cleaned(record.caption or "", _label(record.meta, label))


def _label(meta: object, name: str) -> str | None:
    value = meta.get(name) if isinstance(meta, Mapping) else None
    return clean(value)[:LONGEST] if isinstance(value, str) and value else None


def file_lines(url: str) -> Iterator[Prompt]:
    """The lines of a text file. SluiceError where one is not UTF-8; memory is that of a line."""
    with filesystem.open_read(url) as file:
        number = 0
        while data := file.readline(LINE):
            number += 1
            whole = data
            while whole and not whole.endswith(b"\n") and (whole := file.readline(LINE)):
                pass  # what is left of a line that is far too long
            try:
                # A character that was cut in two at LINE is no fault of the file.
                text = data.decode(errors="strict" if len(data) < LINE else "ignore")
            except UnicodeDecodeError as error:
                raise SluiceError(
                    f"{url} is not UTF-8: line {number} has the byte 0x{data[error.start]:02x}",
                    "save it as UTF-8",
                ) from error
            yield cleaned(text.removeprefix("\ufeff") if number == 1 else text)


def prompts_of(artifact: Artifact, first: int, last: int) -> list[Prompt]:
    """The prompts `first` to `last`, less one; of the file only what holds them is read."""
    with filesystem.open_read(artifact.path(FILE)) as raw:
        file = pq.ParquetFile(raw)
        start, groups, skipped = 0, list[int](), 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            if stop <= first:
                skipped = stop
            elif start < last:
                groups.append(group)
            start = stop
        table = file.read_row_groups(groups, use_threads=False)
    rows = table.slice(first - skipped, last - first).to_pylist()
    return [Prompt(row["prompt"], row["label"], row["reason"]) for row in rows]
