"""Measures of a version as a stage: `<version>/measures/<digest>/measures.json`.

Only columns, and the vectors of a sample, are read. A version holds its pool's rows in its pool's
shards, so the pool's scores are its scores.
"""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from threadpoolctl import threadpool_limits

from curation.columns import dataset_at, folder_digest, read_columns
from curation.measures import formulas
from curation.measures.sample import Place, sample_vectors
from curation.measures.settings import MeasureSettings
from infra import filesystem
from infra.artifacts import Part, Spec
from infra.digests import canonical_json
from infra.filesystem import join
from infra.stage import Draft

CODE = 1
FOLDER, FILE = "measures", "measures.json"
UNIT = 2**28  # of the sum of similarities: whole numbers add up alike in any order
SIMILARITY, CELL = "clip.similarity", "cells.cell"


@dataclass(frozen=True)
class Inputs:
    """Where everything lies: scores are folders under `pool_url`, or under `reference_url`."""

    version_url: str
    pool_url: str
    clip: str
    cells: str
    reference_url: str
    reference_clip: str
    vector: str = "image"

    def digests(self) -> tuple[str, ...]:
        urls = (self.version_url, self.pool_url, self.reference_url)
        folders = (self.clip, self.cells, self.reference_clip)
        versions = tuple(url.rstrip("/").rpartition("/")[2] for url in urls)
        return versions + tuple(folder_digest(folder) for folder in folders)


def measures_draft(inputs: Inputs, settings: MeasureSettings) -> Draft:
    """The measures of one version."""
    asked = settings.model_dump(exclude={"cells", "iterations", "fit"})  # those are the cells'
    identity = {**asked, "vector": inputs.vector}
    spec = Spec("measures", "curation.measures", identity, inputs.digests(), CODE)
    return Draft(join(inputs.version_url, FOLDER, spec.digest), spec)


@dataclass(frozen=True)
class MeasuresWork:
    """Measures a version: one unit of work."""

    url: str
    inputs: Inputs
    settings: MeasureSettings

    def __call__(self, value: object, todo: Sequence[str]) -> dict[str, Part]:
        found = _columns(self.inputs, self.settings)
        with threadpool_limits(1):  # sums keep their order, whatever the machine has
            found |= _vectors(self.inputs, self.settings)
        file = filesystem.write_bytes(self.url, FILE, canonical_json(found))
        rows, kept = found["rows"], found["kept"]
        dropped = {"not_kept": rows - kept} if rows > kept else {}
        return {"": Part("all", (file,), rows, kept, dropped)}


def _columns(inputs: Inputs, settings: MeasureSettings) -> dict[str, Any]:
    """What is counted over all rows: sizes, CLIP score, cells."""
    version = dataset_at(inputs.version_url)
    folders = {"clip": inputs.clip, "cells": inputs.cells}
    cells = settings.cells  # at most so many; those that do not exist count nowhere
    rows = kept = scored = total = 0
    pool, ours = np.zeros(cells, np.int64), np.zeros(cells, np.int64)
    for shard in sorted(version.shards):
        here = pc.equal(version.rows(shard, ["status"])["status"], "ok")
        columns = read_columns(inputs.pool_url, folders, shard, [SIMILARITY, CELL])
        values = columns[SIMILARITY].filter(here).drop_null().to_numpy()
        total += int(np.rint(values.astype(np.float64) * UNIT).astype(np.int64).sum())
        scored += len(values)
        rows, kept = rows + len(here), kept + int(pc.sum(here).as_py() or 0)
        pool += np.bincount(columns[CELL].drop_null().to_numpy(), minlength=cells)
        ours += np.bincount(columns[CELL].filter(here).drop_null().to_numpy(), minlength=cells)
    return {
        "rows": rows,
        "kept": kept,
        "scored": scored,
        "clip_score": total / UNIT / scored if scored else None,
        "cells": int((pool > 0).sum()),
        "coverage": formulas.coverage(pool, ours),
        "sparse_share": formulas.sparse_share(pool, ours, settings.few),
        "head_share": formulas.head_share(pool, ours, settings.tail),
        "tail_share": formulas.tail_share(pool, ours, settings.tail),
    }


def _vectors(inputs: Inputs, settings: MeasureSettings) -> dict[str, Any]:
    """What needs vectors, on a sample of each side."""
    sides = (
        Place(inputs.version_url, inputs.pool_url, inputs.clip, inputs.vector),
        Place(inputs.reference_url, inputs.reference_url, inputs.reference_clip, inputs.vector),
    )
    ours, theirs = (sample_vectors(side, settings.sample, settings.seed) for side in sides)
    return {
        "sampled": len(ours),
        "reference_sampled": len(theirs),
        "diversity": formulas.mean_cosine_distance(ours),
        "vendi_score": formulas.vendi_score(ours),
        "cmmd": formulas.cmmd(ours, theirs),
    }
