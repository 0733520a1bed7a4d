"""What could remain of samples that were taken down: rows of text tables, images in tars, scores
and vectors of rows.
"""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.fetch.blocklists import Blocklists, Entries
from curation.outcomes import BLOCKLISTED, TAKEN_DOWN
from curation.sources.tables import TableFile
from curation.sources.text_tables import copies, is_listed
from curation.sources.urls import Piece, files_of
from curation.takedown.rewrite import taken_parts
from curation.takedown.scores import blanked
from curation.takedown.successor import score_artifacts
from infra import artifacts, filesystem
from infra.artifacts import Artifact
from infra.dataset import Dataset, index_id, read_table
from infra.progress import Display
from infra.runner import Runner
from infra.shards import IMAGE_EXTENSIONS, read_tar

Ids = npt.NDArray[np.int64]


def copies_left(
    store: str, entries: Entries, runner: Runner, display: Display
) -> tuple[int, list[str]]:
    """How many files text tables became, and those with rows that are listed."""
    made = [artifacts.load(url) for url in copies(store)]
    files = [file for tables in made if tables is not None for file in files_of(tables)]
    line, found = display.stage("text tables", len(files), "files"), list[str]()
    for index, count in runner.map(partial(_rows_left, entries), files):
        if count:
            found.append(f"{count} rows of {files[index].url}")
        line.advance()
    line.finish()
    return len(files), sorted(found)


def _rows_left(entries: Entries, file: TableFile) -> int:
    lists = Blocklists.of([entries])
    records = Piece(file, 0, file.rows).records()
    return sum(record.reason != BLOCKLISTED and is_listed(record, lists) for record in records)


def images_left(
    tars: Sequence[str], entries: Entries, runner: Runner, display: Display
) -> list[str]:
    """The samples in tars whose images are listed, each as TAR: KEY."""
    line, found = display.stage("hash images", len(tars), "tars"), list[str]()
    for _, left in runner.map(partial(_images_left, entries), tars):
        found += left
        line.advance()
    line.finish()
    return sorted(found)


def _images_left(entries: Entries, tar: str) -> list[str]:
    lists, found = Blocklists.of([entries]), list[str]()
    if lists.sha256 is None and lists.md5 is None:
        return found
    with filesystem.open_read(tar) as file:
        for sample in read_tar(file, IMAGE_EXTENSIONS):
            if any(lists.lists_bytes(data) for data in sample.members.values()):
                found.append(f"{tar}: {sample.key}")
    return found


def taken_ids(version: Artifact) -> Ids:
    """The ids of the rows of a version that were taken down, ascending."""
    found = [np.empty(0, np.int64)]
    for name in taken_parts(version):
        found.append(index_id(int(name), 0) + _taken_rows(version, int(name)))
    return np.sort(np.concatenate(found))


def _taken_rows(version: Artifact, shard: int) -> Ids:
    rows = Dataset(version).rows(shard, ["row", "reason"])
    return rows.filter(pc.equal(rows["reason"], TAKEN_DOWN))["row"].to_numpy().astype(np.int64)


@dataclass(frozen=True)
class ScoredPart:
    """The files of one shard of a score folder, and the rows of it that were taken down."""

    url: str
    files: tuple[str, ...]
    rows: tuple[int, ...]


def scores_left(
    versions: Sequence[Artifact], runner: Runner, display: Display
) -> tuple[int, list[str]]:
    """How many files were looked at, and those in which rows taken down have a value."""
    parts = [part for version in versions for part in _scored(version)]
    line, found = display.stage("scores", len(parts)), list[str]()
    for _, left in runner.map(_scores_left, parts):
        found += left
        line.advance()
    line.finish()
    return sum(len(part.files) for part in parts), sorted(found)


def _scored(version: Artifact) -> Iterator[ScoredPart]:
    taken = {name: tuple(_taken_rows(version, int(name)).tolist()) for name in taken_parts(version)}
    if not taken:
        return
    for scores in score_artifacts(version.url):
        for part in scores.parts:
            if part.name in taken:
                files = tuple(file.path for file in part.files)
                yield ScoredPart(scores.url, files, taken[part.name])


def _scores_left(part: ScoredPart) -> list[str]:
    return [f"{part.url}/{path}" for path in part.files if _has_values(part, path)]


def _has_values(part: ScoredPart, path: str) -> bool:
    url, rows = f"{part.url}/{path}", list(part.rows)
    if not path.endswith(".parquet"):
        array = np.load(io.BytesIO(filesystem.read_bytes(url)), allow_pickle=False)
        return bool(array[rows].any())
    some = read_table(url).take(pa.array(rows, pa.int64()))
    scorer = part.url.rpartition("/")[2].rpartition("-")[0]
    return not some.equals(blanked(some, np.ones(len(rows), np.bool_), scorer))
