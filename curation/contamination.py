"""Contamination: how close each image of the pool is to the evaluation split.

A score like any other, row-aligned, so that the threshold is a rule: equal bytes, and the
cosine similarity to the closest evaluation image by the same descriptor that finds duplicates.
"""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.columns import (
    artifact_at,
    dataset_at,
    folder_digest,
    read_vectors,
    rows_url,
    score_folder,
)
from curation.rules_settings import ContaminationSettings
from indexes.neighbours import nearest
from infra.artifacts import Part, Spec
from infra.dataset import part_name, read_table, write_table
from infra.errors import SluiceError
from infra.filesystem import join
from infra.stage import Draft, Item

CODE = 1
NAME = "contamination"
COLUMNS = pa.schema(
    [
        ("eval_similarity", pa.float32()),  # cosine to the closest; null where not computable
        ("eval_uid", pa.string()),  # the closest evaluation image
        ("eval_exact", pa.bool_()),  # its bytes are an evaluation image's; null where rejected
    ]
)


@dataclass(frozen=True)
class Reference:
    """What is not to be found in the pool: hashes, and vectors [n, dim] with their uids [n]."""

    hashes: Mapping[str, str]  # sha256 -> uid
    vectors: npt.NDArray[np.float16]
    uids: list[str]


def contamination_draft(
    dataset_url: str,
    dataset_digest: str,
    score_folders: Mapping[str, str],
    evaluation_digest: str,
    evaluation_folders: Mapping[str, str],
    settings: ContaminationSettings,
) -> Draft:
    """The score folder of a dataset against the evaluation split."""
    own, theirs = (_folder(f, settings) for f in (score_folders, evaluation_folders))
    parents = (dataset_digest, folder_digest(own), evaluation_digest, folder_digest(theirs))
    spec = Spec("scores", "curation.contamination", settings.model_dump(), parents, CODE)
    return Draft(join(dataset_url, "scores", f"{NAME}-{spec.digest}"), spec)


def _folder(folders: Mapping[str, str], settings: ContaminationSettings) -> str:
    return score_folder(
        folders, settings.descriptor.partition("/")[0], "curate.contamination.descriptor"
    )


def shard_items(shards: Sequence[int]) -> list[Item]:
    """One unit of work per shard; its value is the shard's number."""
    return [Item(part_name(shard), shard) for shard in shards]


@dataclass(frozen=True)
class ContaminationWork:
    """Compares one shard of a dataset with the evaluation split; its item is a shard number."""

    url: str
    dataset_url: str
    score_folders: Mapping[str, str]
    evaluation_url: str
    evaluation_folders: Mapping[str, str]
    settings: ContaminationSettings

    def __call__(self, value: int, todo: Sequence[str]) -> dict[str, Part]:
        own, theirs = (
            _folder(folders, self.settings)
            for folders in (self.score_folders, self.evaluation_folders)
        )
        vector = self.settings.descriptor.partition("/")[2]
        check_same_scorer(
            join(self.dataset_url, "scores", own), join(self.evaluation_url, "scores", theirs)
        )
        reference = load_reference(self.evaluation_url, theirs, vector)
        rows = read_table(rows_url(self.dataset_url, value), ["status", "sha256"])
        vectors = read_vectors(self.dataset_url, own, vector, value)
        table = compare(rows, vectors, reference)
        file = write_table(self.url, f"columns/{part_name(value)}.parquet", table)
        leaks = int(pc.sum(table["eval_exact"]).as_py() or 0)
        part = Part(
            part_name(value), (file,), table.num_rows, table.num_rows, extra={"exact": leaks}
        )
        return {"": part}


@functools.lru_cache(maxsize=8)
def check_same_scorer(ours: str, theirs: str) -> None:
    """Vectors of two scorers, or of two settings of one, cannot be compared."""
    left, right = artifact_at(ours), artifact_at(theirs)
    if (left.settings, left.manifest["spec"]["code"]) != (
        right.settings,
        right.manifest["spec"]["code"],
    ):
        raise SluiceError(
            f"{ours} and {theirs} were scored with different settings",
            "score both datasets with one recipe",
        )


@functools.lru_cache(maxsize=2)
def load_reference(url: str, folder: str, vector: str) -> Reference:
    """The evaluation split's hashes and vectors, loaded once per process."""
    dataset = dataset_at(url)
    hashes: dict[str, str] = {}
    uids: list[str] = []
    vectors: list[npt.NDArray[np.float16]] = []
    for shard in sorted(dataset.shards):
        rows = dataset.rows(shard, ["uid", "status", "sha256"])
        shard_vectors = read_vectors(url, folder, vector, shard)
        usable = (pc.equal(rows["status"], "ok").to_numpy()) & shard_vectors.any(axis=1)
        vectors.append(shard_vectors[usable])
        uids += rows["uid"].filter(pa.array(usable)).to_pylist()
        for row in rows.filter(pc.field("status") == "ok").to_pylist():
            hashes.setdefault(row["sha256"], row["uid"])
    stacked = np.concatenate(vectors) if vectors else np.empty((0, 0), np.float16)
    return Reference(hashes, stacked, uids)


def compare(rows: pa.Table, vectors: npt.NDArray[np.float16], reference: Reference) -> pa.Table:
    """Compare rows (status, sha256) and their vectors [rows, dim] with the reference."""
    count = rows.num_rows
    ok = pc.equal(rows["status"], "ok").to_numpy()
    same = [reference.hashes.get(value) if value else None for value in rows["sha256"].to_pylist()]
    exact = np.array([uid is not None for uid in same], bool)
    similarity = np.zeros(count, np.float32)
    closest: dict[int, str] = {}
    usable = ok & vectors.any(axis=1) & bool(len(reference.vectors))
    if usable.any():
        best, index = nearest(vectors[usable], reference.vectors, 1)
        similarity[usable] = np.minimum(best[:, 0], 1)
        rows_found = np.flatnonzero(usable).tolist()
        closest = {row: reference.uids[i] for row, i in zip(rows_found, index[:, 0], strict=True)}
    uids = [equal or closest.get(row) for row, equal in enumerate(same)]
    return pa.table(
        [
            pa.array(similarity, mask=~usable),
            pa.array([uid if fine else None for uid, fine in zip(uids, ok, strict=True)]),
            pa.array(exact, mask=~ok),
        ],
        schema=COLUMNS,
    )
