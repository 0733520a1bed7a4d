"""Caption frequency: how many samples of a version have the same caption. A score like any other.

Captions are compared normalised (NFKC, lower case, one space between words), by 64 bits of their
BLAKE2b: of a billion distinct captions some 0.03 pairs are taken for equal. In memory: 8 bytes a
sample while they are counted, 8 GB for a billion; then 12 for each caption that comes again.
"""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.columns import dataset_at
from curation.dedup import ALL
from curation.units import column
from infra.artifacts import Part, Spec
from infra.dataset import Dataset, part_name, write_table
from infra.filesystem import FilePart, join
from infra.stage import Draft

CODE = 1
NAME = "frequency"
COLUMNS = pa.schema([column("captions", pa.int32(), "samples")])  # null where it is empty

Hashes = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int32]


def frequency_draft(dataset_url: str, dataset_digest: str) -> Draft:
    """The score folder of a dataset version."""
    spec = Spec("scores", "curation.frequency", {}, (dataset_digest,), CODE)
    return Draft(join(dataset_url, "scores", f"{NAME}-{spec.digest}"), spec)


@dataclass(frozen=True)
class FrequencyWork:
    """Counts the captions of all shards, then writes their columns: one unit of work, `ALL`."""

    url: str
    dataset_url: str

    def __call__(self, value: object, todo: Sequence[str]) -> dict[str, Part]:
        dataset = dataset_at(self.dataset_url)
        shards = sorted(dataset.shards)
        repeated, counts = repeats([_hashes(dataset, shard)[1] for shard in shards])
        files: list[FilePart] = []
        rows = 0
        for shard in shards:
            known, hashes = _hashes(dataset, shard)
            column = np.zeros(len(known), np.int32)
            column[known] = counts_of(hashes, repeated, counts)
            table = pa.table([pa.array(column, mask=~known)], schema=COLUMNS)
            files.append(write_table(self.url, f"columns/{part_name(shard)}.parquet", table))
            rows += table.num_rows
        extra = {"repeated": len(repeated)}
        return {"": Part(ALL.name, tuple(files), rows, rows, extra=extra)}


def _hashes(dataset: Dataset, shard: int) -> tuple[npt.NDArray[np.bool_], Hashes]:
    """Which rows of a shard are samples with a caption, bool [rows], and their hashes."""
    rows = dataset.rows(shard, ["status", "caption"])
    captions = normalised(rows["caption"])
    known = pc.and_kleene(pc.equal(rows["status"], "ok"), pc.not_equal(captions, ""))
    known = pc.fill_null(known, False)
    return known.to_numpy(), hashed(captions.filter(known))


def normalised(captions: pa.ChunkedArray) -> pa.ChunkedArray:
    """NFKC, lower case, runs of white space as one space, none at the ends."""
    lower = pc.utf8_lower(pc.utf8_normalize(captions, form="NFKC"))
    words = pc.utf8_split_whitespace(lower)
    return pc.utf8_trim_whitespace(pc.binary_join(words, " "))


def hashed(captions: pa.ChunkedArray) -> Hashes:
    """The first 64 bits of the BLAKE2b of each caption, uint64 [n]."""
    binary = captions.cast(pa.binary()).to_pylist()
    digests = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in binary)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def repeats(pieces: list[Hashes]) -> tuple[Hashes, Counts]:
    """The hashes that come more than once in all pieces, ascending, and how often.

    `pieces` is emptied, so that no second copy of the hashes stays.
    """
    hashes = np.concatenate([*pieces, np.empty(0, np.uint64)])
    pieces.clear()
    hashes.sort()
    new = np.ones(len(hashes), bool)
    np.not_equal(hashes[1:], hashes[:-1], out=new[1:])
    starts = np.flatnonzero(new)
    counts = np.diff(starts, append=len(hashes))
    again = counts > 1
    return hashes[starts[again]], counts[again].astype(np.int32)


def counts_of(hashes: Hashes, repeated: Hashes, counts: Counts) -> Counts:
    """How often each of `hashes` comes: what `repeats` says, else once."""
    if not len(repeated):
        return np.ones(len(hashes), np.int32)
    place = np.minimum(np.searchsorted(repeated, hashes), len(repeated) - 1)
    return np.where(repeated[place] == hashes, counts[place], 1).astype(np.int32)
