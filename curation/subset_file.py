"""A version as a DataComp subset file: the sorted uids of its samples, `np.dtype("u8,u8")`.

`curation.sources.subset` reads it. In memory: some 48 bytes a sample while it is sorted.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.columns import artifact_at
from curation.sources.subset import PAIRS
from infra import filesystem
from infra.artifacts import MANIFEST
from infra.dataset import Dataset, part_name, read_table
from infra.errors import SluiceError
from infra.filesystem import join, write_whole

Halves = npt.NDArray[np.uint64]


def write_subset(dataset: Dataset, target: str, verdicts: str | None = None) -> int:
    """Write the uids of a version's samples to the file `target`; how many they are.

    verdicts: the digest, or its first characters, of verdicts over the version: then those that
    they keep. A uid that several samples have stands there as often. An existing file is replaced.
    """
    url = _verdicts_url(dataset, verdicts) if verdicts else None
    halves: list[Halves] = [np.empty((0, 2), np.uint64)]
    for shard in sorted(dataset.shards):
        name = f"{part_name(shard)}.parquet"
        rows = (
            dataset.rows(shard, ["uid", "status"]).filter(pc.field("status") == "ok")
            if url is None
            else read_table(join(url, name), ["uid", "kept"]).filter(pc.field("kept"))
        )
        halves.append(uid_halves(rows["uid"]))
    high, low = np.concatenate(halves).T
    order = np.lexsort((low, high))
    pairs = np.empty(len(order), PAIRS)
    pairs["f0"], pairs["f1"] = high[order], low[order]
    folder, _, path = target.rpartition("/")
    with write_whole(folder, path) as file:
        np.lib.format.write_array(file, pairs, allow_pickle=False)
    filesystem.remove_empty(join(folder, filesystem.TEMPORARY))
    return len(pairs)


def uid_halves(uids: pa.ChunkedArray) -> Halves:
    """Uids (32 hex characters each) -> their first and last 64 bits, uint64 [n, 2]."""
    digits = "".join(uids.to_pylist())
    return np.frombuffer(bytes.fromhex(digits), ">u8").reshape(-1, 2).astype(np.uint64)


def _verdicts_url(dataset: Dataset, digest: str) -> str:
    manifests = filesystem.list_files(join(dataset.url, "verdicts", "*", MANIFEST))
    there = sorted(manifest.split("/")[-2] for manifest in manifests)
    found = [name for name in there if name.startswith(digest)]
    if len(found) != 1:
        raise SluiceError(
            f"{dataset.url} has {len(found)} verdicts whose digest starts with {digest!r}",
            f"name one of {', '.join(there)}" if there else "run `prefect run curate` first",
        )
    return artifact_at(join(dataset.url, "verdicts", found[0])).url
