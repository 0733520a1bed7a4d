"""DataComp's subset files: which uids to take, and how often.

A `.npy`, or the raw array, of `np.dtype("u8,u8")`: the first and the last 64 bits of each uid,
sorted. A uid that stands there k times gives k samples. (DataComp, resharder.py)
"""

import hashlib
import itertools
import os
import re
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from curation.outcomes import BAD_LINE
from curation.sources.base import Record, Source, Unit
from curation.sources.columnar import DAMAGED, changed, unreadable
from infra import filesystem
from infra.errors import SluiceError

PAIRS = np.dtype("<u8,<u8")
MAGIC = b"\x93NUMPY"
ROWS = 1024  # records that are looked up at once
CHECKED = 2**20  # pairs at once while the order is checked
UNKNOWN = (BAD_LINE, DAMAGED)  # rows whose uid cannot be read: nobody can say they are outside
READ, OUTSIDE = "read", "outside_subset"
_UID = re.compile(r"[0-9a-fA-F]{32}")


@dataclass(frozen=True)
class Subset:
    """A subset file of `bytes` bytes, as it was when the source was listed."""

    url: str
    bytes: int

    def open(self) -> Any:
        """The sorted pairs, shape (n,): mapped, not read. A remote file is fetched once for all."""
        if filesystem.is_local(self.url):
            path = Path(filesystem.resolve(self.url)[1])
        else:
            path = _fetched(self.url, self.bytes)
        if path.stat().st_size != self.bytes:
            raise changed(self.url)
        return _pairs(path)

    def check(self) -> None:
        """SluiceError where the file is no array of pairs, or not sorted."""
        try:
            pairs = self.open()
        except (ValueError, OSError, EOFError) as error:
            raise SluiceError(
                f"{self.url} is no subset file: {error}",
                'it must be a .npy, or the raw array, of np.dtype("u8,u8")',
            ) from error
        for start in range(0, len(pairs), CHECKED):
            piece = pairs[start : start + CHECKED + 1]
            high, low = piece["f0"], piece["f1"]
            equal = high[:-1] == high[1:]
            bad = (high[:-1] > high[1:]) | (equal & (low[:-1] > low[1:]))
            if bad.any():
                raise SluiceError(
                    f"{self.url} is not sorted at entry {start + int(bad.argmax()) + 1}",
                    "sort it: np.save(FILE, np.sort(np.load(FILE)))",
                )


def counts(pairs: Any, uids: Sequence[str | None]) -> list[int]:
    """How often each uid stands among the pairs; 0 for what is no uid."""
    known = [uid if uid and _UID.fullmatch(uid) else None for uid in uids]
    keys = np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in known if uid], PAIRS)
    found = np.searchsorted(pairs, keys, "right") - np.searchsorted(pairs, keys, "left")
    left = iter(found.tolist())
    return [next(left) if uid else 0 for uid in known]


def open_subset(url: str) -> Subset:
    """The subset file at `url`, checked. Raises SluiceError for what is none."""
    try:
        subset = Subset(url, filesystem.size(url))
    except OSError as error:
        raise unreadable(url, error) from error
    subset.check()
    return subset


def subset_digest(url: str) -> str:
    """SHA-256 of a subset file: it is part of what a version is made from."""
    try:
        with filesystem.open_read(url) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except OSError as error:
        raise unreadable(url, error) from error


def _pairs(path: Path) -> Any:
    """The array, mapped and not read."""
    with path.open("rb") as file:
        is_npy = file.read(len(MAGIC)) == MAGIC
    if is_npy:
        pairs = np.load(path, mmap_mode="r", allow_pickle=False)
        if pairs.dtype != PAIRS or pairs.ndim != 1:
            raise ValueError(f"it holds {pairs.dtype} of shape {pairs.shape}")
        return pairs
    if path.stat().st_size % PAIRS.itemsize:
        raise ValueError(f"its size is no multiple of {PAIRS.itemsize} bytes")
    if not path.stat().st_size:
        return np.empty(0, PAIRS)  # nothing to map
    return np.memmap(path, PAIRS, mode="r")


def _fetched(url: str, size: int) -> Path:
    """A copy in this user's temporary folder, named by what the store says of the file."""
    info = filesystem.info(url)
    state = [url, size] + [str(info.get(tag)) for tag in ("ETag", "etag", "LastModified", "mtime")]
    folder = Path(tempfile.gettempdir()) / f"sluice-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise SluiceError(f"{folder} belongs to another user", "set TMPDIR to a folder of yours")
    path = folder / f"subset-{hashlib.sha256(repr(state).encode()).hexdigest()[:16]}"
    if not path.exists():
        part = path.with_name(f"{path.name}-{uuid.uuid4().hex}")
        try:
            with filesystem.open_read(url) as source, part.open("wb") as target:
                _copy(source, target)
            part.replace(path)
        except OSError as error:
            raise unreadable(url, error) from error
        finally:
            part.unlink(missing_ok=True)
    return path


def _copy(source: BinaryIO, target: BinaryIO) -> None:
    while block := source.read(2**20):
        target.write(block)


@dataclass(frozen=True)
class SubsetUnit:
    """Those records of a unit whose uid is in the subset, each as often as it stands there."""

    unit: Unit
    subset: Subset

    @property
    def name(self) -> str:
        return self.unit.name

    def records(self, tally: Counter[str] | None = None) -> Iterator[Record]:
        """tally: counts the rows "read", and those "outside_subset", which give no record.

        A row whose uid cannot be read (a damaged row group, a bad line) stays, refused.
        """
        tally = Counter() if tally is None else tally
        records, pairs = self.unit.records(), self.subset.open()
        while piece := list(itertools.islice(records, ROWS)):
            often = counts(pairs, [record.uid for record in piece])
            for record, count in zip(piece, often, strict=True):
                tally[READ] += 1
                if record.reason in UNKNOWN and not record.uid:
                    count = 1
                tally[OUTSIDE] += not count
                for _ in range(count):
                    yield record


@dataclass(frozen=True)
class SubsetSource:
    """A source of any kind, less what is outside the subset."""

    source: Source
    url: str

    def files(self) -> list[str]:
        return self.source.files()

    def units(self, rows_per_shard: int) -> Sequence[SubsetUnit]:
        """The source's units: of `rows_per_shard` rows before the subset is applied."""
        subset = open_subset(self.url)
        return [SubsetUnit(unit, subset) for unit in self.source.units(rows_per_shard)]


def records_of(unit: Unit, tally: Counter[str]) -> Iterator[Record]:
    """The records of a unit; `tally` counts what they do not show, as in SubsetUnit.records."""
    return unit.records(tally) if isinstance(unit, SubsetUnit) else unit.records()
