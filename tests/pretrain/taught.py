"""Made-up outputs of a teacher for the samples of a version, which the sweeps learn from."""

from typing import Any

import numpy as np
import pyarrow as pa

from infra import artifacts
from infra.artifacts import Part, Spec
from infra.dataset import part_name, write_table
from pretrain.data import open_source
from pretrain.reinforce_settings import ReinforceSettings
from pretrain.reinforce_shard import column

COLUMNS = {name: f"{name}-{'0' * 16}" for name in ("teacher", "label_map")}
CLASSES = tuple("abcdefghijkl")


def record(place: int, views: int = 2) -> dict[str, Any]:
    """Columns of a sample for teacher_records: some views, for which `place` is the likeliest."""
    return {
        "classes": np.asarray([[place, 7]] * views, np.uint16),
        "probabilities": np.asarray([[0.7, 0.1]] * views, np.float16),
        "box": np.asarray([[6554, 0, 65535, 52428]] * views, np.uint16),
        "flip": (np.arange(views) % 2).astype(np.uint8),
    }


def label_map(place: int) -> dict[str, Any]:
    """Columns of a sample for label_maps: two rows of three places."""
    classes = np.full((2, 3, 2), 7, np.uint16)
    classes[..., 0] = place
    scores = np.linspace(0, 4, 12).reshape(2, 3, 2).astype(np.float16)
    return {"classes": classes, "scores": scores}


def write_taught(url: str) -> str:
    """Adds both to every sample of a version, the class going round with the row; returns `url`."""
    dataset = open_source(url)
    for name, of in (("teacher", record), ("label_map", label_map)):
        made, first = f"{url}/scores/{COLUMNS[name]}", 0
        for part in dataset.parts:
            rows = [of((first + row) % 3) for row in range(part.rows)]
            first += part.rows
            table = pa.table(
                {
                    key: column(np.stack([row[key] for row in rows]), range(len(rows)), len(rows))
                    for key in rows[0]
                }
            )
            file = write_table(made, f"columns/{part_name(int(part.name))}.parquet", table)
            artifacts.record_part(made, Part(part.name, (file,), part.rows, part.rows), 0, 0)
        artifacts.commit(made, Spec("scores", "test"), {"classes": list(CLASSES)})
    return url


def settings_of(network: str, **changes: Any) -> ReinforceSettings:
    value = {"teachers": [{"network": network}], "views": 3, "top": 2, "device": "cpu"}
    return ReinforceSettings.model_validate({**value, **changes})
