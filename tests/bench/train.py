"""Training a small CLIP from tars, against open_clip's own trainer in an environment of its own.

The same network (the peer script's: 64 pixels, two towers of six layers of 192), batch, captions
and processors; turns alternate, so that what else the machine does falls on both. Figures are
medians of the turns. A rate is that of the steps after the first ones, loading included: of
open_clip's it is the median of those its log tells, of ours batch / median of the seconds a step.
The loaders alone, from tars to cropped pixels and tokens, are measured per CPU second, all their
processes and threads together.

Tars and the peer's script: ../shared/bench/peers (make_data.py, bench_open_clip_train.py).
Run: python tests/bench/train.py --peer PATH/bin/python --script PATH/bench_open_clip_train.py
     --tars FOLDER
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from record import keep

from curation.ingest import IngestWork, ingest_draft, ingest_items
from curation.settings import SourceSettings
from infra import artifacts
from pretrain.data import Source
from pretrain.job import Job
from pretrain.loop import Trainer, deterministic
from pretrain.resample import squeeze
from pretrain.settings import TrainSettings

THREADS, BATCH, CONTEXT = 2, 128, 77
WARM = 3  # steps that are not measured
TOWERS: dict[str, Any] = {
    "embed_dim": 192,
    "vision_cfg": {
        "image_size": 64,
        "layers": 6,
        "width": 192,
        "head_width": 64,
        "patch_size": 16,
    },
    "text_cfg": {
        "context_length": CONTEXT,
        "vocab_size": 49408,
        "width": 192,
        "heads": 3,
        "layers": 6,
    },
}
TARGETS = {"fp32_of_open_clip": 1.0, "bfloat16_of_open_clip": 1.6, "loader_per_cpu_second": 3.0}


def ingest(store: Path, tars: Sequence[Path]) -> str:
    """A dataset version of these tars, used where they lie; returns its URL."""
    sources = [SourceSettings(tars=str(path)) for path in tars]
    draft = ingest_draft(str(store), "bench", sources, "bench")
    for item in ingest_items(sources):
        part = IngestWork(draft.url)(item.value, [item.name])[item.name]
        artifacts.record_part(draft.url, part, 0, 0)
    return artifacts.commit(draft.url, draft.spec).url


def of(precision: str, steps: int) -> TrainSettings:
    return TrainSettings.model_validate(
        {
            "objective": "clip",
            "model": TOWERS,
            "image_size": 64,
            "batch": BATCH,
            "steps": steps,
            "lr": 5e-4,
            "threads": THREADS,
            "device": "cpu",
            "log_every": 1,
            "cache_mib": 0,
            "precision": "bfloat16" if precision == "bf16" else "float32",
        }
    )


def train(url: str, precision: str, steps: int) -> dict[str, float]:
    """Samples a second of our loop, and the share of its time that it waits for data."""
    settings = of(precision, steps)
    with tempfile.TemporaryDirectory() as folder, deterministic(THREADS):
        trainer = Trainer(Job(folder, "bench", settings, (Source(url),)))
        took: list[float] = []
        waited: list[float] = []
        with trainer.ahead() as viewed:
            for _ in range(steps):
                start = time.perf_counter()
                ready = viewed.next()
                waited.append(time.perf_counter() - start)
                trainer.advance(*ready)
                took.append(time.perf_counter() - start)
    return {
        "samples_s": BATCH / median(took[WARM:]),
        "waiting": sum(waited[WARM:]) / sum(took[WARM:]),
        "loss": json.loads(trainer.metrics[-1])["loss"],
    }


def load(url: str, samples: int) -> dict[str, float]:
    """Samples a second, and a CPU second, of the loader alone: crops and tokens, as the peer's."""
    settings = of("fp32", samples // BATCH)
    with tempfile.TemporaryDirectory() as folder, deterministic(THREADS):
        trainer = Trainer(Job(folder, "bench", settings, (Source(url),)))
        squeeze(np.zeros((8, 8, 3), np.uint8), 8)  # compiled loops are loaded
        start, cpu = time.perf_counter(), time.process_time()
        with trainer.ahead(settings.steps) as viewed:
            count = sum(len(viewed.next()[1]["images"]) for _ in range(settings.steps))
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    return {"samples_s": count / seconds, "samples_cpu_s": count / cpu_seconds}


def peer(python: str, script: str, tars: Path, count: int, samples: int, *more: str) -> Any:
    """What the peer's script prints: its last line."""
    with tempfile.TemporaryDirectory() as out:
        command = [python, script, "--tars", str(tars), "--n-tars", str(count)]
        command += ["--samples", str(samples), "--batch", str(BATCH), "--threads", str(THREADS)]
        command += ["--context", str(CONTEXT), "--out", f"{out}/logs", *more]
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, env=environment, check=True
        )
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(chosen: argparse.Namespace, store: Path) -> dict[str, Any]:
    tars = sorted(Path(chosen.tars).glob("*.tar"))[: chosen.n_tars]
    url = ingest(store, tars)
    samples = chosen.steps * BATCH
    found: dict[str, list[float]] = {}

    def note(**figures: float) -> None:
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
            print(name, round(value, 2), flush=True)

    def theirs(what: str, precision: str, count: int) -> Any:
        more = ("--what", what, "--precision", precision)
        return peer(chosen.peer, chosen.script, Path(chosen.tars), len(tars), count, *more)

    for turn in range(chosen.turns):
        for precision, name in (("fp32", "fp32"), ("bf16", "bfloat16")):
            if precision == "bf16" and turn >= chosen.bf16_turns:
                continue
            own = train(url, precision, chosen.steps if precision == "fp32" else chosen.bf16_steps)
            note(**{f"{name}_samples_s": own["samples_s"], f"{name}_waiting": own["waiting"]})
            if precision == "fp32":
                log = theirs("train", precision, samples)
                note(open_clip_fp32_samples_s=log["samples_s_log_median"])
        own = load(url, chosen.loaded)
        note(loader_samples_s=own["samples_s"], loader_samples_cpu_s=own["samples_cpu_s"])
        log = theirs("loader", "fp32", chosen.loaded)
        note(
            open_clip_loader_samples_s=log["samples_s"],
            open_clip_loader_samples_cpu_s=1000 / log["cpu_s_per_1k"],
        )
    middle = {name: median(values) for name, values in found.items()}
    base = middle["open_clip_fp32_samples_s"]
    ratios = {
        "fp32_of_open_clip": middle["fp32_samples_s"] / base,
        "bfloat16_of_open_clip": middle["bfloat16_samples_s"] / base,
        "loader_per_cpu_second": middle["loader_samples_cpu_s"]
        / middle["open_clip_loader_samples_cpu_s"],
    }
    return {
        "peer": "open_clip_torch 3.3.0, open_clip_train.main",
        "samples": {"batch": BATCH, "steps": chosen.steps, "loaded": chosen.loaded},
        "threads": THREADS,
        "turns": {name: [round(value, 3) for value in values] for name, values in found.items()},
        "median": {name: round(value, 3) for name, value in middle.items()},
        "ratios": {name: round(value, 2) for name, value in ratios.items()},
        "targets": TARGETS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True, help="Python of the environment with open_clip")
    parser.add_argument("--script", required=True, help="bench_open_clip_train.py")
    parser.add_argument("--tars", required=True, help="folder of tars of jpg, txt, json")
    parser.add_argument("--n-tars", type=int, default=4)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--loaded", type=int, default=4096, help="samples for the loaders alone")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--bf16-turns", type=int, default=3, help="fewer where it is emulated")
    parser.add_argument("--bf16-steps", type=int, default=16)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        keep("train", measure(chosen, Path(folder)), "torch", "open_clip_torch", "pillow")


if __name__ == "__main__":
    main()
