"""Which patches of an image make it what its caption says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from curation.patches import GRID, VECTOR
from curation.score import Batch, Scores, filled, spread
from curation.scores.clip import ClipScorer, load_encoder
from curation.units import column

TOP = GRID * GRID // 5


@dataclass(frozen=True)
class PatchesScorer:
    """Vectors `importance`, [rows, 14 * 14], unit: patches row by row; and the column

    focus    float32 0.2..1, what the fifth of the patches with most importance holds of all of it

    Null and zero where the image cannot be decoded, or no patch matters more than another. The
    importance is that of `indexes.saliency`, from the CLIP that filters.
    """

    name: str
    clip: ClipScorer

    code = 1
    reads_images = True
    reads_vectors = ()
    vectors = (VECTOR,)
    columns = pa.schema([column("focus", pa.float32(), "share, 0 to 1")])

    def settings(self) -> Mapping[str, Any]:
        told = self.clip.settings()
        model = {name: told[name] for name in ("model", "pretrained")}
        return {"kind": "patches", "grid": GRID, **model}

    def score(self, batch: Batch) -> Scores:
        from indexes.saliency import patch_importance

        positions, images = batch.decoded()
        captions = batch.rows["caption"].take(pa.array(positions, pa.int64())).to_pylist()
        encoder = load_encoder(self.clip.location(), self.clip.pretrained)
        found = patch_importance(encoder, images, [caption or "" for caption in captions], GRID)
        found = found.astype(np.float64)
        total = found.sum(axis=1)
        with np.errstate(invalid="ignore"):
            focus = np.sort(found, axis=1)[:, -TOP:].sum(axis=1) / total
            unit = np.nan_to_num(found / np.linalg.norm(found, axis=1, keepdims=True))
        columns = {"focus": filled(len(batch), positions, focus, pa.float32())}
        return Scores(pa.table(columns), {VECTOR: spread(len(batch), positions, unit)})
