"""Generated images: what drawing through a version costs beside the bare pipeline, and the sweep.

The first figure: CPU-seconds of an image drawn, encoded and written to a shard, beside those of
diffusers' own call with as many prompts at once; the same pipeline, prompts and seeds.

The second: the race `synthetic`, of guidance, prompts and the synthetic share, on a small CLIP at
equal samples seen. Without --model it runs with random weights, and then its figures say that it
runs and how long, not what generated images are worth: for that give a released pipeline and a GPU.

Run: python tests/bench/synthetic_sweep.py [--model FOLDER] [--budget 64k] [--seeds 3]
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from record import keep

sys.path.insert(0, str(Path(__file__).parents[2]))

from curation.generate.model import find_model
from curation.generate.pipeline import load
from curation.generate.prompts import ALL, PromptsWork, prompts_draft
from curation.generate.settings import GenerateSettings
from curation.generate.work import GenerateWork, generate_draft, generate_items, image_seed
from flows.race.main import RaceOptions, execute, prepare
from infra.progress import SilentDisplay
from infra.runner import InlineRunner
from infra.stage import run_stage
from tests.curation.generate import tiny

IMAGES, STEPS, CHUNK = 64, 20, 4
SMALL = (  # a demo of few images, for the sweep with random weights
    "run.executor=inline", "run.workers=1",
    "data.demo.per_concept=8", "data.demo.tars=3", "data.demo.parquets=1", "data.demo.folder=12",
    "filter.train.steps=50", "filter.train.threads=1",
    "data.generate.steps=3", "data.generate.prompts.limit=48", "race.measures.cells=8",
    # Random weights draw alike: nothing would be left to learn from.
    "curate.rules.not_its_prompt.min=-9", "curate.dedup.near=[]",
    "curate.rules.chequered.drop=coalesce(made.grid, 0) > 9",
)  # fmt: skip


def overhead(model: Path, folder: Path) -> dict[str, Any]:
    """CPU-seconds an image, of a shard and of the bare pipeline; both are warm."""
    settings = GenerateSettings.model_validate(
        {
            "model": str(model),
            "prompts": {"classes": [f"thing {number}" for number in range(IMAGES)],
                        "templates": ["a photo of {}"]},
            "guidance_scale": 2, "steps": STEPS, "chunk": CHUNK, "rows_per_shard": IMAGES,
        }
    )  # fmt: skip
    found, shown = find_model(settings.model, None, True), SilentDisplay()
    listed = prompts_draft(str(folder), "pool", settings.prompts, None)
    work = PromptsWork(listed.url, settings.prompts)
    prompts = run_stage("prompts", {"": listed}, [ALL], work, InlineRunner(), shown)[""]
    drawing = load(found, settings, "float32")
    wanted = [(f"a photo of thing {number}", number) for number in range(IMAGES)]
    list(drawing.draw(wanted[:CHUNK]))
    start = time.process_time()
    for first in range(0, IMAGES, CHUNK):
        pieces = wanted[first : first + CHUNK]
        seeds = [image_seed(0, prompt, 0) for prompt, _ in pieces]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        with torch.inference_mode():
            drawing.pipeline(
                [prompt for prompt, _ in pieces], num_inference_steps=STEPS, guidance_scale=2.0,
                generator=generators,
            )  # fmt: skip
    bare = (time.process_time() - start) / IMAGES
    draft = generate_draft(str(folder), "pool", settings, found, listed)
    draw = GenerateWork(draft.url, listed.url, settings, found, "float32")
    items = generate_items(settings, prompts)
    start = time.process_time()
    run_stage("draw", {"": draft}, items, draw, InlineRunner(), shown)
    ours = (time.process_time() - start) / IMAGES
    return {
        "images": IMAGES, "steps": STEPS, "chunk": CHUNK,
        "cpu_ms_an_image": {"bare pipeline": round(1e3 * bare, 2), "shard": round(1e3 * ours, 2)},
        "ms_beside_the_pipeline": round(1e3 * (ours - bare), 2),
    }  # fmt: skip


def sweep(model: Path, folder: Path, budget: str, seeds: int, small: bool) -> dict[str, Any]:
    """The race's table: accuracy and its difference to real images alone, by entrant."""
    overrides = (f"data.generate.model={model}", *(SMALL if small else ()))
    race = prepare(RaceOptions((), "synthetic", budget, seeds, overrides, str(folder / "store")))
    start = time.monotonic()
    execute(race, SilentDisplay(), lambda step, session: step.run(session))
    seconds = time.monotonic() - start
    table = json.loads(Path(race.table.url, "race.json").read_text())
    task = table["tasks"][0]
    entrants = {
        each["label"]: {
            "kept": each["kept"],
            "accuracy": each["evaluation"][task]["accuracy"]["value"],
            "difference": each["difference"] and each["difference"][task]["accuracy"],
        }
        for each in table["entrants"]
    }
    return {
        "model": "random weights" if small else model.name,
        "samples_seen": table["samples_seen"],
        "seeds": seeds,
        "task": task,
        "seconds": round(seconds),
        "entrants": entrants,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--budget", default="2k")
    parser.add_argument("--seeds", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        random = tiny.diffusion(folder)
        figures = {"drawing": overhead(random, folder / "drawing")}
        small = asked.model is None
        model = random if small else asked.model
        figures["sweep"] = sweep(model, folder, asked.budget, asked.seeds, small)
    keep("synthetic_sweep", figures, "diffusers", "transformers", "torch")


if __name__ == "__main__":
    main()
