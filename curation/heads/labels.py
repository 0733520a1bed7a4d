"""Labelled vectors: a table of uids and labels, joined with the vectors of a dataset version."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from curation.columns import read_vectors
from curation.heads.card import CLASS_NAME
from curation.heads.settings import TrainHeadSettings
from curation.score import check_unit
from infra import artifacts, filesystem
from infra.artifacts import Artifact
from infra.dataset import Dataset
from infra.errors import SluiceError
from infra.filesystem import join

CLASSES = 1000  # of one head, at most

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Labelled:
    """uids [n], ascending; vectors float64 [n, dim]; labels [n]; classes: whether they are 0 or 1.

    names: of classes, where labels are places among them. counts: what became of the rows of the
    table, which they add up to but for `labels`.
    """

    uids: Sequence[str]
    vectors: Doubles
    labels: Doubles
    classes: bool
    counts: Mapping[str, int]
    names: tuple[str, ...] = ()


def read_labels(url: str, settings: TrainHeadSettings) -> tuple[pa.Table, tuple[str, ...]]:
    """The columns `uid` (string, null or not) and `label` (double) of Parquet or CSV.

    And the names of classes, in alphabetical order, where the labels are words: a label then is
    its place among them.
    """
    table = _read_table(url)
    for name in (settings.uid, settings.label):
        if name not in table.column_names:
            raise SluiceError(
                f"{url} has no column {name!r}; it has {', '.join(table.column_names[:12])}",
                "name the columns of uids and labels with --uid and --label",
            )
    uids, labels = table[settings.uid], table[settings.label]
    kind, names = labels.type, ()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        labels, names = _places(url, labels)
        kind = labels.type
    numeric = pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if not (numeric or pa.types.is_null(kind)):
        raise SluiceError(
            f"{url}: the labels in {settings.label!r} are of type {kind}",
            "a label is true or false, 0 or 1, a number, or a word: write them so",
        )
    try:
        if pa.types.is_boolean(kind):
            labels = labels.cast(pa.int8())
        columns = {"uid": uids.cast(pa.string()), "label": labels.cast(pa.float64())}
        return pa.table(columns), names
    except pa.ArrowException as error:
        raise SluiceError(f"{url}: its uids or labels cannot be read: {error}", "") from error


def _places(url: str, labels: pa.ChunkedArray) -> tuple[pa.Array, tuple[str, ...]]:
    """The place of each word among the distinct ones, sorted; null where it is null or empty."""
    words = [word.strip() if word else "" for word in labels.to_pylist()]
    names = tuple(sorted({word for word in words if word}))
    wrong = [name for name in names if not re.fullmatch(CLASS_NAME, name)]
    if wrong or not 2 < len(names) <= CLASSES:
        raise SluiceError(
            f"{url}: its labels are {len(names)} words"
            + (f", among them {wrong[0][:40]!r}" if wrong else ""),
            f"give from 3 to {CLASSES} classes, named by a-z, 0-9 and _: each is a column; of two "
            "classes write one as 1 and the other as 0",
        )
    places = {name: place for place, name in enumerate(names)}
    return pa.array([places.get(word) for word in words], pa.int32()), names


def _read_table(url: str) -> pa.Table:
    try:
        with filesystem.open_read(url) as raw:
            if url.endswith(".csv"):
                return pyarrow.csv.read_csv(raw)
            return pq.read_table(raw, use_threads=False)
    except FileNotFoundError as error:
        raise SluiceError(f"there is no table at {url}", "check the name of --labels") from error
    except pa.ArrowException as error:
        raise SluiceError(
            f"{url} cannot be read: {error}", "give Parquet, or CSV with a line of names (.csv)"
        ) from error


def vectors_of(dataset: Dataset, name: str) -> tuple[Artifact, str]:
    """The score folder that holds SCORER/VECTOR for a version, and the vector's name.

    SCORER is a scorer's name, or a folder's where several models have embedded the version.
    """
    scorer, _, vector = name.partition("/")
    folders = {
        file.split("/scores/", 1)[1].split("/")[0]
        for file in filesystem.list_files(join(dataset.url, "scores"))
        if file.endswith(artifacts.MANIFEST)
    }
    found = sorted(each for each in folders if scorer in (each, each.rpartition("-")[0]))
    shown = ", ".join(sorted(folders)) or "none: scores stand beside the pool, not the curated one"
    if not found:
        raise SluiceError(f"{dataset.url} has no scores of {scorer!r}", f"it has {shown}")
    if len(found) > 1:
        raise SluiceError(
            f"{dataset.url} has vectors of several models: {', '.join(found)}",
            f"say which, as in --vectors {found[0]}/{vector}",
        )
    artifact = artifacts.load(join(dataset.url, "scores", found[0]))
    assert artifact is not None
    return artifact, vector


def join_labels(
    dataset: Dataset,
    scores: Artifact,
    vector: str,
    table: pa.Table,
    names: tuple[str, ...] = (),
) -> Labelled:
    """The labels whose samples have a vector; SluiceError where there are none to learn from."""
    wanted, counts = _distinct(table)
    found: dict[str, tuple[npt.NDArray[Any], float]] = {}
    known: set[str] = set()
    for shard in dataset.shards:
        uids = dataset.rows(shard, ["uid"])["uid"].to_pylist()
        chosen = [row for row, uid in enumerate(uids) if uid in wanted and uid not in found]
        if not chosen:
            continue
        folder = scores.url.rpartition("/")[2]
        vectors = read_vectors(dataset.url, folder, vector, shard)[chosen]
        check_unit(vectors, join(scores.url, vector))
        for row, values in zip(chosen, vectors, strict=True):
            known.add(uids[row])
            if values.any():
                found[uids[row]] = (values, wanted[uids[row]])
    counts |= {"unknown uid": len(wanted) - len(known), "no vector": len(known) - len(found)}
    counts["used"] = len(found)
    if not found:
        said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        raise SluiceError(
            f"no label meets a vector of {dataset.url}: {said}",
            "give uids of this version, as `rows/` holds them, and labels that are numbers",
        )
    order = sorted(found)
    labels = np.array([found[uid][1] for uid in order])
    vectors = np.stack([found[uid][0] for uid in order]).astype(np.float64)
    classes = not names and bool(np.isin(labels, (0, 1)).all())
    return Labelled(order, vectors, labels, classes, counts, names)


def _distinct(table: pa.Table) -> tuple[dict[str, float], dict[str, int]]:
    """Label by uid, and the count of rows that give none; uids that contradict themselves go."""
    labels: dict[str, float] = {}
    counts: dict[str, int] = {"labels": 0, "no label": 0, "repeated": 0, "contradicted": 0}
    wrong: set[str] = set()
    for uid, label in zip(table["uid"].to_pylist(), table["label"].to_pylist(), strict=True):
        counts["labels"] += 1
        if uid is None or label is None or not np.isfinite(label):
            counts["no label"] += 1
        elif uid.lower() in labels:
            counts["repeated"] += 1
            if labels[uid.lower()] != label:
                wrong.add(uid.lower())
        else:
            labels[uid.lower()] = label
    counts["contradicted"] = len(wrong)
    return {uid: label for uid, label in labels.items() if uid not in wrong}, counts


def shares(uids: Sequence[str], purpose: str) -> Doubles:
    """A number in 0..1 for each uid, by its hash: the same in every table and version."""
    digests = [hashlib.sha256(f"{purpose}/{uid}".encode()).digest() for uid in uids]
    return np.array([int.from_bytes(digest[:8], "big") / 2**64 for digest in digests])
