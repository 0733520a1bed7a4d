"""A joint run in two processes: the gradient of one, however a part's samples lie in them."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.pretrain.conftest import picture, png, write_version
from tests.pretrain.test_ranks import together

TOLERANCE = 1e-5
STEPS = 2
COMMON = {"objective": "joint", "image_size": 32, "batch": 16, "threads": 1, "shuffle": 40}
GRADIENTS = """
import json, os, sys
from torch import distributed
from safetensors.torch import save_file
from pretrain import sharding
from pretrain.data import Source
from pretrain.job import Job
from pretrain.loop import Trainer, deterministic
from pretrain.ranks import joined
from pretrain.settings import TrainSettings
if int(os.environ["WORLD_SIZE"]) > 1:
    distributed.init_process_group("gloo")
runs, sources, steps = json.loads(open(sys.argv[1]).read())
for name, settings in runs.items():
    folder = f"{sys.argv[2]}/{name}"
    given = tuple(Source(url, share, name=own) for own, (url, share) in sources.items())
    with deterministic(1):
        trainer = Trainer(Job(folder, "d", TrainSettings.model_validate(settings), given), joined())
        batches, told = trainer.stream.batches(trainer.stream.start()), []
        class Given:
            def next(self):
                self.batch = next(batches)
                return self.batch
        taken = Given()
        views = trainer.viewed(taken)
        for step in range(steps):
            _, viewed = next(views)
            trainer.optimizer.zero_grad(set_to_none=True)
            loss, figures = trainer.gradients(viewed, 0.5)
            values = trainer.ranks.mean([loss, *figures.values()])
            grads = {name: sharding.joined(value.grad).contiguous().clone()
                     for name, value in trainer.objective.named_parameters()
                     if value.grad is not None}
            here = {n.split("/")[0]: len(v) for n, v in viewed.items() if n.endswith("/images")}
            told.append({**dict(zip(["loss", *figures], values)), "here": here})
            if trainer.ranks.first:
                os.makedirs(folder, exist_ok=True)
                save_file(grads, f"{folder}/{step}.safetensors")
        print(json.dumps([name, told]))
        trainer.writer.close()
"""
TEXT = {
    "embed_dim": 16,
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
DINO = {"prototypes": 32, "hidden": 16, "bottleneck": 8, "local_crops": 0}
READS: dict[str, Any] = {"model": TEXT, "sources": ["web"]}
VIT: dict[str, Any] = {"model": "test_vit", "model_kwargs": {}, "image_size": 160, "canvas": 160}
CONVNEXT: dict[str, Any] = {"model": "test_convnext", "model_kwargs": {}}
SIGLIP = {"chunk": 2, "init_bias": -3.0}
MAE = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
LABELS = {"objective": "multi_instance", "sources": ["few"], "options": {"classes": ["a", "b"]}}
RUNS: dict[str, dict[str, Any]] = {
    "clip and mae": {
        **VIT,
        "options": {
            "parts": {
                "pairs": {"objective": "clip", **READS, "options": {"negatives": "local_exact"}},
                "patches": {"objective": "mae", "options": MAE, "sources": ["photos"], "weight": 2},
                "labels": LABELS,
            }
        },
    },
    "siglip, barlow and others": {
        **CONVNEXT,
        "options": {
            "parts": {
                "pairs": {"objective": "clip", **READS, "options": {"same_caption": "positive"}},
                "also": {"objective": "siglip", **READS, "options": SIGLIP},
                "slow": {"objective": "albef_itc", **READS, "options": {"queue": 20}},
                "views": {"objective": "barlow", "options": {"projector": 8}},
                "crops": {"objective": "dino", "options": DINO, "sources": ["photos", "few"]},
            }
        },
    },
}
RUNS["in pieces"] = {**RUNS["clip and mae"], "sharding": "fsdp"}
SHARES = {"web": 0.45, "photos": 0.51, "few": 0.04}  # of 16: 7, 8, and 1 or none


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float]]:
    folder = tmp_path_factory.mktemp("sources")
    found: dict[str, tuple[str, float]] = {}
    for name, share in SHARES.items():
        samples = [
            (
                png(picture("red", number, name)),
                {"caption": f"{name} {number}", "labels": ["ab"[number % 2]]},
            )
            for number in range(24)
        ]
        found[name] = write_version(folder / name, samples, per_shard=5), share
    return found


Told = dict[str, list[dict[str, Any]]]  # of each run and step: figures, and samples that are here


@pytest.fixture(scope="module")
def told(
    sources: dict[str, tuple[str, float]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Told], list[Path]]:
    """What one process and two tell of each run, and the folders of their gradients."""
    folder = tmp_path_factory.mktemp("told")
    stated = {name: {**COMMON, **run} for name, run in RUNS.items()}
    (folder / "runs.json").write_text(json.dumps([stated, sources, STEPS]))
    found: list[Told] = []
    for count in (1, 2):
        said = together(count, "-c", GRADIENTS, str(folder / "runs.json"), str(folder / str(count)))
        found += [dict(json.loads(line) for line in each.splitlines()) for each in said]
    return found, [folder / "1", folder / "2"]


@pytest.mark.long
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_have_the_gradient_of_one(
    name: str, told: tuple[list[Told], list[Path]]
) -> None:
    for step in range(STEPS):
        first, second = (load_file(each / name / f"{step}.safetensors") for each in told[1])
        assert first.keys() == second.keys() and len(first) > 30
        largest = max(value.abs().max().item() for value in first.values())
        off = max((value - second[key]).abs().max().item() for key, value in first.items())
        print(f"{name}: largest {largest:.3g}, off {off:.2g}")
        assert largest > 1e-2
        assert off < TOLERANCE * max(1.0, largest / 10)  # float32: 7 digits


@pytest.mark.long
@pytest.mark.parametrize("name", RUNS)
def test_the_mean_of_their_figures_is_that_of_one(
    name: str, told: tuple[list[Told], list[Path]]
) -> None:
    """Those that are means over samples."""
    one, *two = told[0]
    for step in range(STEPS):
        for process in two:
            assert process[name][step].keys() == one[name][step].keys()
            for key, value in one[name][step].items():
                if key.endswith(("loss", "rows", "skipped", "absent")):
                    assert process[name][step][key] == pytest.approx(value, rel=1e-5), key


@pytest.mark.long
def test_samples_lie_unevenly_and_few_ones_in_both(told: tuple[list[Told], list[Path]]) -> None:
    for process, web in ((1, 4), (2, 3)):
        first, second = (step["here"] for step in told[0][process]["clip and mae"])
        assert first == {"pairs": web, "patches": 4, "labels": 1}
        assert second == {"pairs": 4, "patches": 4}  # a part without samples rests in both
        assert told[0][process]["clip and mae"][1]["labels/skipped"] == 1
