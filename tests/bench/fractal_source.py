"""How long training steps wait for fractals that are drawn on the fly, on two cores.

A ViT-Ti (192 wide, 12 blocks) at 64 pixels in patches of 8, on a drawn version of 1,000 systems of
1,000 instances: told apart, several in an image, and as MAE's pictures. The run's own clock
(`speed.json`) says how much of its time it waited for data. Nothing is cached between epochs.

Results are kept where no --steps are given; then it takes some minutes.
Run: python tests/bench/fractal_source.py [--steps 5]
"""

import argparse
import json
import os
import tempfile
import time
from typing import Any

from record import keep

from curation.synthetic.fractals import (
    Fractals,
    fractal_items,
    fractals_draft,
    fractals_work,
)
from curation.synthetic.settings import FractalSettings
from infra.artifacts import Artifact
from infra.progress import SilentDisplay
from infra.runner import InlineRunner
from infra.stage import run_stage
from pretrain.clock import Spent
from pretrain.data import Source
from pretrain.run import run_draft, train
from pretrain.settings import TrainSettings
from pretrain.told_classes import with_classes

PACKAGES = ("torch", "timm", "numba")
TARGET = 0.02  # of the time waiting
BATCH, STEPS, DRAWN = 64, 30, 500
ONE = FractalSettings(systems=1000, instances=1000, size=96)
SCENES = ONE.model_copy(update={"objects": (1, 5)})
RUNS: dict[str, tuple[str, FractalSettings]] = {
    "one system in an image, told apart": ("supervised", ONE),
    "one to five systems in an image, told apart": ("multi_instance", SCENES),
    "MAE": ("mae", ONE),
}
NETWORK: dict[str, Any] = {
    "model": "vit_tiny_patch16_224",
    "model_kwargs": {"img_size": 64, "patch_size": 8},
    "image_size": 64, "batch": BATCH, "threads": 2, "cache_mib": 0, "device": "cpu",
    "checkpoint_every": 10_000,
}  # fmt: skip


def version(store: str, settings: FractalSettings) -> Artifact:
    """The drawn version: its manifest is all that is written."""
    draft = fractals_draft(store, settings)
    work, items = fractals_work(draft.url, settings), fractal_items(settings)
    with InlineRunner() as runner:
        made = run_stage("", {"": draft}, items, work, runner, SilentDisplay(), work.extra)
    return made[""]


def waiting(store: str, objective: str, fractals: FractalSettings, steps: int) -> dict[str, Any]:
    """What a run measured of itself, and what drawing its images alone takes."""
    made = version(store, fractals)
    asked = TrainSettings.model_validate({**NETWORK, "objective": objective, "steps": steps})
    settings = with_classes(asked, {"": made.settings})
    draft = run_draft(store, "bench", settings, {"": made.digest})
    url = train(draft, [Source(made.url)], settings, "local", SilentDisplay()).url
    spent = Spent.load(url)
    assert spent is not None and spent.steps
    total = spent.waited + spent.stepped
    drawer, begin = Fractals(fractals), time.process_time()
    for number in range(DRAWN):  # systems that are new, as in a first epoch
        drawer.draw(fractals.systems * 7 + number)
    drawing = (time.process_time() - begin) / DRAWN
    return {
        "objective": objective,
        "waiting": round(spent.waited / total, 5),
        "images_a_second": round(spent.steps * BATCH / total, 1),
        "seconds": round(total, 1),
        "drawn_a_cpu_second": round(1 / drawing),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, help="of each run: to try this out, nothing is kept")
    given = parser.parse_args()
    found: dict[str, Any] = {"batch": BATCH, "steps": given.steps or STEPS, "target": TARGET}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as store:
        rows = {name: waiting(store, *run, found["steps"]) for name, run in RUNS.items()}
    found |= {"load_before": round(load, 2), "runs": rows}
    found["met"] = all(row["waiting"] < TARGET for row in rows.values())
    if given.steps:
        print(json.dumps(found, indent=1))
    else:
        keep("fractal_source", found, *PACKAGES)


if __name__ == "__main__":
    main()
