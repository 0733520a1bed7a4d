"""Planted defects: what the filters caught, what they missed, and what they took wrongly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.canaries import PAIRS, REASONS, RIGHTLY, measure
from flows.report.context import ReportContext
from flows.report.samples import Samples, Tile, shuffled
from infra import filesystem
from infra.charts import number
from infra.dataset import read_table

SHOWN = 9  # pictures of one kind of mistake


@dataclass(frozen=True)
class Canary:
    """One planted defect and the reason that is to find it."""

    defect: str
    reason: str
    planted: int
    caught: int
    flagged: int
    recall: float
    precision: float
    missed: Sequence[Tile]
    wrong: Sequence[Tile]  # flagged, though planted with nothing that explains it


@dataclass(frozen=True)
class Canaries:
    """One row per planted defect, and how many were planted in all."""

    rows: Sequence[Canary]
    planted: int


def read_key(context: ReportContext, samples: Samples) -> pa.Table | None:
    """The planted uids among the samples, if this run knows of any."""
    if not context.canaries or not filesystem.exists(context.canaries):
        return None
    key = read_table(context.canaries, ["uid", "defect", "twin_uid"])
    if samples.whole:
        return key
    # Of pairs that the sampled shards cut apart nothing can be said.
    twin, seen = pc.field("twin_uid"), pa.array(samples.uid)
    return key.filter(pc.field("uid").isin(seen) & (twin.is_null() | twin.isin(seen)))


def canaries(
    samples: Samples, key: pa.Table | None, values: Mapping[str, np.ndarray]
) -> Canaries | None:
    """Recall and precision of each filter on what was planted, with its mistakes in pictures."""
    if key is None:
        return None
    if not key.num_rows:
        return None
    planted: dict[str, list[dict[str, Any]]] = {}
    for entry in key.to_pylist():
        planted.setdefault(entry["defect"], []).append(entry)
    rows = [
        _canary(samples, planted, row, values) for row in measure(key, samples.table).to_pylist()
    ]
    return Canaries(rows, key.num_rows)


def _canary(
    samples: Samples,
    planted: Mapping[str, Sequence[Mapping[str, Any]]],
    row: Mapping[str, Any],
    values: Mapping[str, np.ndarray],
) -> Canary:
    defect, reason = row["defect"], row["reason"]
    scores = values.get(reason)
    missed = [
        samples.positions[entry["uid"]]
        for entry in planted[defect]
        if _stayed(samples, entry["uid"])
        and (defect not in PAIRS or _stayed(samples, entry["twin_uid"]))
    ]
    explained = {
        entry[name]
        for other in (defect, *RIGHTLY.get(defect, ()))
        for entry in planted.get(other, ())
        for name in (("uid", "twin_uid") if defect in PAIRS else ("uid",))
    }
    names = REASONS.get(defect, (reason,))
    flagged = sorted({int(i) for name in names for i in samples.flagged_for(name)})
    wrong = [i for i in flagged if samples.uid[i] not in explained]

    def tiles(positions: Sequence[int]) -> list[Tile]:
        chosen = shuffled(samples.uid, np.array(positions, dtype=int), SHOWN)
        return [samples.tile(i, _value(samples, scores, i)) for i in chosen]

    return Canary(
        defect,
        reason,
        row["planted"],
        row["caught"],
        row["flagged"],
        _share(row["recall"]),
        _share(row["precision"]),
        tiles(missed),
        tiles(wrong),
    )


def _stayed(samples: Samples, uid: str | None) -> bool:
    position = samples.positions.get(uid or "")
    return position is not None and bool(samples.kept[position])


def _value(samples: Samples, scores: np.ndarray | None, position: int) -> str:
    if scores is not None and np.isfinite(scores[position]):
        return number(float(scores[position]))
    similarity = samples.similarity[position]
    return f"{similarity:.3f}" if np.isfinite(similarity) else ""


def _share(value: float | None) -> float:
    return float(value) if value is not None else float("nan")


def planted_rows(
    samples: Samples, key: pa.Table | None, found: Canaries | None
) -> dict[str, np.ndarray]:
    """reason -> bool [rows]: the rows planted with the defect that the reason is to find."""
    if key is None or found is None:
        return {}
    planted = {}
    for canary in found.rows:
        mine = key.filter(pc.field("defect") == canary.defect)["uid"].to_pylist()
        planted[canary.reason] = np.isin(samples.uid.astype(str), mine)
    return planted
