"""A dataset version of chosen rows of another: nothing is copied, its tars are used where they are.

Shard and row numbers stay what they were, so that the source's scores and embeddings are
row-aligned with the subset, too. Shards without a chosen row are left out whole.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from indexes.embeddings import all_scores_of, scores_of, store_of
from infra import artifacts, samples
from infra.artifacts import Part, Spec
from infra.dataset import REPEATING, ROW_BITS, ROWS, Dataset, part_name, publish, write_table
from infra.errors import SluiceError
from infra.filesystem import join

CODE = 1
NOT_IN_SUBSET = "not_in_subset"  # the reason of rows that were not chosen
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

Ids = npt.NDArray[np.int64]


def make_subset(
    dataset: Dataset, ids: Ids, name: str, asked: str, embedding: str | None = None
) -> Dataset:
    """The version of `<store>/<name>` that holds the rows `ids` of a dataset, published.

    asked: how they were found, for people; it stands in the manifest. embedding: what they were
    found by, SCORE-FOLDER/VECTOR; it settles which scores are meant where a version was scored
    several times by one scorer, of which there are else none. The same rows of the same
    version make the same subset. Raises SluiceError for no rows, rows without a sample, or a name
    that is none.
    """
    if not NAME.fullmatch(name):
        raise SluiceError(
            f"{name!r} is no name of a dataset", "use letters, digits and any of _ . -"
        )
    if not len(ids):
        raise SluiceError(f"the subset {name} would hold no row", "choose some rows")
    store, chosen = store_of(dataset), np.unique(ids)
    folders = _folders(dataset, embedding)
    digests = [folder.rpartition("-")[2] for _, folder in sorted(folders.items())]
    parents = (dataset.artifact.digest, *digests)
    spec = Spec("dataset", "indexes.subset", _settings(dataset, chosen, folders), parents, CODE)
    url = join(store, name, spec.digest)
    made = artifacts.load(url)
    if made is None:
        for shard in np.unique(chosen >> ROW_BITS).tolist():
            rows = chosen[chosen >> ROW_BITS == shard] & (1 << ROW_BITS) - 1
            artifacts.record_part(url, _shard(dataset, url, shard, rows), 0.0, 0.0)
        made = artifacts.commit(url, spec, {"asked": asked})
    publish(store, name, made)
    return Dataset(made)


def _folders(dataset: Dataset, embedding: str | None) -> dict[str, str]:
    """The score folders that belong to the subset, by scorer."""
    every = all_scores_of(dataset)[1]
    found = {scorer: each[0] for scorer, each in every.items() if len(each) == 1}
    if embedding is not None:
        folder = embedding.partition("/")[0]
        found[folder.rpartition("-")[0]] = folder
    return dict(sorted(found.items()))


def _settings(dataset: Dataset, ids: Ids, folders: Mapping[str, str]) -> dict[str, Any]:
    """Sources are named by dataset and version, never by place: a store can be moved."""
    home = scores_of(dataset)[0]
    named = {"dataset": home.split("/")[-2], "version": home.split("/")[-1]}
    return {
        "source": named,
        "scores": dict(folders),
        "of": {"dataset": dataset.url.split("/")[-2], "version": dataset.artifact.digest},
        "rows": hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest(),
    }


def _shard(dataset: Dataset, url: str, shard: int, chosen: Ids) -> Part:
    name, rows = part_name(shard), dataset.rows(shard)
    inside = np.zeros(rows.num_rows, bool)
    if len(chosen) and chosen[-1] < rows.num_rows:
        inside[chosen] = True
    ok = np.array([status == "ok" for status in rows["status"].to_pylist()], bool)
    if int((inside & ok).sum()) != len(chosen):
        raise SluiceError(
            f"of {len(chosen)} rows of shard {name} of {dataset.url} only "
            f"{int((inside & ok).sum())} are samples",
            "choose among the rows of an index of that version",
        )
    table = _decided(rows, inside, ok)
    tars = [
        samples.seen_from(url, dataset.url, tar) for tar in samples.read_tars(dataset.url, name)
    ]
    samples.write_tars(url, name, tars)
    file = write_table(url, f"rows/{name}.parquet", table, REPEATING)
    dropped = Counter(reason for reason in table["reason"].to_pylist() if reason)
    return Part(name, (file,), rows.num_rows, len(chosen), dict(dropped))


def _decided(rows: pa.Table, inside: npt.NDArray[np.bool_], ok: npt.NDArray[np.bool_]) -> pa.Table:
    """The rows with the state they have in the subset, and no place where they have no image."""
    out = pa.array(ok & ~inside)
    gone = pa.array(~inside)
    changed: Mapping[str, Any] = {
        "status": _replaced(rows["status"], out, "dropped"),
        "reason": _replaced(rows["reason"], out, NOT_IN_SUBSET),
        "tar": _replaced(rows["tar"], gone, None),
        "offset": _replaced(rows["offset"], gone, None),
    }
    return pa.table([changed.get(name, rows[name]) for name in ROWS.names], schema=ROWS)


def _replaced(column: pa.ChunkedArray, where: pa.Array, value: object) -> pa.Array:
    import pyarrow.compute as pc

    return pc.if_else(where, pa.scalar(value, column.type), column.combine_chunks())  # type: ignore[attr-defined]
