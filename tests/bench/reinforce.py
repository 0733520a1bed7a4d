"""Does a student learn more from a teacher's stored outputs than from labels, on CIFAR-10?

Two small residual networks learn all images with their labels and are then asked, once, about
stored views of some of them. The same network learns these few anew, over three seeds: from labels
alone, and from what is stored, at equal epochs. Kept with the size of what is stored and its time.

CIFAR-10 as Parquet, train.parquet and test.parquet with columns jpg and label, is looked for at
--data or $CIFAR10. Results are kept at full scale alone.
Run: python tests/bench/reinforce.py --data FOLDER [--store FOLDER] [--scale 0.02]
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from learning import SMALL, classified, dataset, made, some
from record import keep

from infra.artifacts import Artifact, load
from infra.progress import SilentDisplay
from infra.runner import LocalRunner
from infra.stage import run_stage
from pretrain.evaluate.intervals import over_seeds
from pretrain.reinforce import ReinforceWork, reinforce_draft, reinforce_items, words
from pretrain.reinforce_settings import ReinforceSettings
from pretrain.settings import TrainSettings

IMAGES, STUDENT_IMAGES, TEST = 50_000, 5_000, 10_000
TEACHER_EPOCHS, STUDENT_EPOCHS, VIEWS, TEACHERS, SEEDS = 8, 24, 8, 2, 3
CONFIDENCE = 0.95
CROP = {"crop_scale": (0.5, 1.0), "flip": 0.5}
COMMON: dict[str, Any] = {
    **SMALL, "batch": 128, "optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.05, "cache_mib": 512,
}  # fmt: skip


def steps(images: int, epochs: int) -> int:
    return max(images * epochs // COMMON["batch"], 1)


def trained(store: str, name: str, settings: dict[str, Any], url: str) -> tuple[str, float]:
    """The URL of a finished run, and the seconds it took."""
    version, started = load(url), time.monotonic()
    assert version is not None
    run, _ = made(Path(store), name, TrainSettings.model_validate(settings), version)
    return run, time.monotonic() - started


def all_trained(store: Path, runs: Sequence[tuple[str, dict[str, Any], str]]) -> list[Any]:
    """Two at a time, one thread each."""
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        found = [pool.submit(trained, str(store), *each) for each in runs]
        return [each.result() for each in found]


def reinforced(version: Artifact, teachers: Sequence[str], classes: Sequence[str]) -> Artifact:
    settings = ReinforceSettings.model_validate(
        {
            "teachers": [{"network": url} for url in teachers], "classes": classes,
            "label": "concept", "views": VIEWS, "canvas": 32, "device": "cpu", **CROP,
        }
    )  # fmt: skip
    draft = reinforce_draft(version.url, version.digest, "teacher", settings)
    work = ReinforceWork(draft.url, version.url, settings)
    items = reinforce_items(version.url, settings)
    with LocalRunner(2) as runner:
        return run_stage(
            "reinforce", {"": draft}, items, work, runner, SilentDisplay(), work.figures
        )[""]


def measured(data: Path, store: Path, scale: float) -> dict[str, Any]:
    count, few, asked = (round(scale * each) for each in (IMAGES, STUDENT_IMAGES, TEST))
    test = str(store / "asked.parquet")
    pq.write_table(some(data / "test.parquet", asked), test)
    images = some(data / "train.parquet", count)
    classes = sorted(set(images["concept"].to_pylist()))
    whole = dataset(store, "cifar", images)
    part = dataset(store, "few", some(data / "train.parquet", few, "few"))
    labels = {"objective": "supervised", "options": {"classes": classes, "jitter": 0.0, **CROP}}
    own = {**COMMON, **labels, "steps": steps(count, TEACHER_EPOCHS)}
    taught = all_trained(
        store, [("teacher", {**own, "seed": 100 + n}, whole.url) for n in range(TEACHERS)]
    )
    stored = reinforced(part, [url for url, _ in taught], classes)
    print(words(stored), file=sys.stderr, flush=True)
    outputs = {
        "objective": "teacher_records",
        "options": {"classes": classes},
        "columns": {"teacher": stored.url.rpartition("/")[2]},
    }
    total = steps(few, STUDENT_EPOCHS)
    plan = [
        (name, {**COMMON, **kind, "steps": total, "seed": seed}, part.url)
        for seed in range(SEEDS)
        for name, kind in (("labels", labels), ("stored", outputs))
    ]
    runs = all_trained(store, plan)
    right = [classified(url, test) for url, _ in runs]
    rows = [
        {"seed": seed, "labels": round(right[2 * seed], 4), "stored": round(right[2 * seed + 1], 4)}
        for seed in range(SEEDS)
    ]
    gain = over_seeds([row["stored"] - row["labels"] for row in rows], CONFIDENCE)
    spent = stored.timing()
    return {
        "what": "accuracy on CIFAR-10's test set of a student at equal epochs",
        "images": {"teachers": count, "student": few, "test": asked},
        "epochs": {"teachers": TEACHER_EPOCHS, "student": STUDENT_EPOCHS},
        "teachers": {
            "accuracy": [round(classified(url, test), 4) for url, _ in taught],
            "minutes": [round(seconds / 60, 1) for _, seconds in taught],
        },
        "stored": {
            "views": VIEWS,
            "top": 10,
            "bytes_per_output": stored.manifest["extra"]["bytes_per_output"],
            "cpu_milliseconds_per_image": round(1000 * spent["cpu_seconds"] / few, 2),
            "cpu_milliseconds_per_output": round(1000 * spent["cpu_seconds"] / few / VIEWS, 3),
        },
        "student_minutes": {
            name: round(float(np.mean([took for _, took in runs[place::2]])) / 60, 2)
            for place, name in enumerate(("labels", "stored"))
        },
        "seeds": rows,
        "mean": {
            name: round(float(np.mean([row[name] for row in rows])), 4)
            for name in ("labels", "stored")
        },
        "gain": {name: round(float(getattr(gain, name)), 4) for name in ("value", "low", "high")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("CIFAR10"), help="folder of the Parquet")
    parser.add_argument("--store", help="keep the store here, and go on where it was")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the images")
    given = parser.parse_args()
    data = Path(given.data or "")
    if not (given.data and (data / "train.parquet").is_file()):
        sys.exit("CIFAR-10 is not here: give --data FOLDER or set CIFAR10; nothing was measured")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(given.store or folder).absolute()
        store.mkdir(parents=True, exist_ok=True)
        found = measured(data, store, given.scale)
    found["minutes"] = round((time.monotonic() - started) / 60, 1)
    if given.scale == 1:
        keep("reinforce", found, "torch", "timm")
    else:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
