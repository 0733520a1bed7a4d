"""Which files are tables of URLs, and what the Parquet ones say of themselves."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from curation.settings import SourceSettings
from curation.sources import base, columnar
from curation.sources.columnar import ParquetGroups
from curation.sources.roles import find_roles
from infra.errors import SluiceError

PACKED = ("", ".gz", ".zst")
FORMATS: Mapping[str, tuple[str, ...]] = {
    "parquet": (".parquet", ".pq"),
    "csv": tuple(f".csv{pack}" for pack in PACKED),
    "tsv": tuple(f"{end}{pack}" for end in (".tsv", ".tab") for pack in PACKED),
    "json": tuple(f"{end}{pack}" for end in (".jsonl", ".ndjson", ".json") for pack in PACKED),
    "txt": tuple(f".txt{pack}" for pack in PACKED),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
STATS = "_stats.json"  # img2dataset's, beside its tables
THREADS = 16  # footers read at once: each is a wait for the store


@dataclass(frozen=True, slots=True)
class TableFile:
    """A Parquet file of `rows` rows and `bytes` bytes, as it was when it was listed.

    label: of the file the rows came from. roles: role -> column; beside those of
    `roles.find_roles`, "reason" and "meta" (JSON) in the parts that text_tables writes.
    """

    url: str
    label: str
    rows: int
    bytes: int
    roles: tuple[tuple[str, str], ...]


def format_of(file: str) -> str:
    """parquet, csv, tsv, json or txt, by the file's name; SluiceError for any other."""
    for name, suffixes in FORMATS.items():
        if file.lower().endswith(suffixes):
            return name
    raise SluiceError(
        f"{file} is no table of URLs by its name",
        "give it the suffix of what it holds: .parquet, .csv, .tsv, .jsonl or .txt (a URL a "
        "line), the text ones also with .gz or .zst behind",
    )


def list_tables(location: str) -> list[str]:
    """The tables of a location, sorted; SluiceError where they are of several formats."""
    files = base.list_source(location, SUFFIXES, "urls")
    files = [file for file in files if not file.endswith(STATS)] or files
    held = Counter(format_of(file) for file in files)
    if len(held) > 1:
        counts = ", ".join(f"{count} {name}" for name, count in held.items())
        raise SluiceError(
            f"{location} holds tables of several formats: {counts}",
            "name the files of one format with a pattern like FOLDER/*.parquet; each format is a "
            "source of its own",
        )
    return files


def read_footers(pairs: Sequence[tuple[str, str]], settings: SourceSettings) -> list[TableFile]:
    """The Parquet files (URL, label), sized by their footers alone.

    Raises SluiceError for a file that is none, that lacks a column, or whose column of URLs,
    captions, uids or hashes is not text as in the other files.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda pair: _footer(pair[0], pair[1], settings), pairs))
    good: dict[str, str] = {}
    bad: dict[str, tuple[str, str]] = {}
    for file, wrong in found:
        for role, _ in file.roles:
            if role in wrong:
                bad.setdefault(role, (file.url, wrong[role]))
            else:
                good.setdefault(role, file.url)
    for role, (url, held) in bad.items():
        also = f"; in {good[role]} it is text" if role in good else ""
        raise SluiceError(
            f"{url}: the {role} column holds {held}, not text{also}",
            f"write that file again, or name another column in the source: `{role}: COLUMN`",
        )
    return [file for file, _ in found]


def _footer(url: str, label: str, settings: SourceSettings) -> tuple[TableFile, dict[str, str]]:
    """A file, and the types of those of its columns that should be text and are not."""
    with columnar.open_raw(url) as raw:
        groups = ParquetGroups(raw, url)
        size = raw.seek(0, 2)
    schema = groups.schema
    texts = [field.name for field in schema if _is_text(field.type)]
    roles = find_roles(url, schema.names, settings, texts)
    wrong = {
        role: str(schema.field(name).type) for role, name in roles.items() if name not in texts
    }
    if "uid" in wrong and settings.uid is None and settings.subset is None:
        del roles["uid"], wrong["uid"]  # a number of one's own: rides along
    file = TableFile(url, label, sum(groups.sizes), size, tuple(roles.items()))
    return file, wrong


def _is_text(kind: pa.DataType) -> bool:
    """Strings; and bytes, as which writers of old left them."""
    return columnar.is_text(kind) or (
        columnar.is_binary(kind) and not pa.types.is_fixed_size_binary(kind)
    )
