"""A model in pieces (FSDP2) against whole copies of it (DDP), on two gloo processes."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pretrain import objectives
from pretrain.checkpoint import read_saved
from pretrain.checkpoint_files import KEPT
from pretrain.data import Source
from pretrain.job import Job
from pretrain.loop import Trainer, run
from pretrain.settings import TrainSettings
from pretrain.sharding import blocks, part_scalars
from tests.pretrain.test_ranks import together

RUNS = """
import json, sys
from torch import distributed
from pretrain import loop
from pretrain.data import Source
from pretrain.job import Job
from pretrain.settings import TrainSettings
distributed.init_process_group("gloo")
advance = loop.Trainer.advance
for url, settings, source, stop in json.load(open(sys.argv[1])):
    class Stopped(Exception):
        pass
    def until(trainer, state, views):
        if trainer.step == stop:
            raise Stopped
        advance(trainer, state, views)
        if trainer.cut:
            own = next(value for value in trainer.objective.parameters() if value.ndim == 2)
            print(url, list(own.shape), list(own.to_local().shape))
    loop.Trainer.advance = until
    try:
        job = Job(url, "d", TrainSettings.model_validate(settings), (Source(source),))
        loop.run(job, lambda step, note: None)
    except Stopped:
        pass
"""
COMMON: dict[str, Any] = {"steps": 6, "checkpoint_every": 3, "clip_grad": 0.5, "ema": 0.5}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "clip": ("clip", COMMON),
    "siglip": ("siglip", COMMON),
    "dino": ("dino", {**COMMON, "ema": None}),
    "clip, micro-batches": ("clip", {**COMMON, "micro_batch": 2}),
    "siglip, micro-batches": ("siglip", {**COMMON, "micro_batch": 3}),
    "mae, micro-batches": ("mae", {**COMMON, "micro_batch": 3}),
}


def losses(url: str) -> list[float]:
    lines = (Path(url) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.long
@pytest.mark.slow
def test_a_model_in_pieces_learns_what_a_whole_one_learns(
    pairs: str, small: Callable[..., TrainSettings], tmp_path: Path
) -> None:
    """And goes on, after a stop, in one process as in two."""
    runs: list[tuple[str, Any, str, int | None]] = []
    stated: dict[str, dict[str, TrainSettings]] = {}
    for name, (objective, changes) in KINDS.items():
        stated[name] = {k: small(objective, sharding=k, **changes) for k in ("ddp", "fsdp")}
        for kind, settings in stated[name].items():
            given = settings.model_dump(mode="json")
            runs.append((str(tmp_path / name / kind), given, pairs, None))
            if kind == "fsdp":
                runs.append((str(tmp_path / name / "stopped"), given, pairs, 5))
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    said = together(2, "-c", RUNS, str(tmp_path / "runs.json"))
    whole, own = json.loads(f"[{said[0].splitlines()[0].split(' ', 1)[1].replace('] [', '], [')}]")
    assert own[0] == math.ceil(whole[0] / 2)  # each process holds a half
    for name in ("clip", "siglip"):
        wanted, found = (
            losses(str(tmp_path / n / "ddp")) for n in (name, f"{name}, micro-batches")
        )
        assert found == pytest.approx(wanted, rel=2e-4)
    for name, kinds in stated.items():
        wanted = losses(str(tmp_path / name / "ddp"))
        assert len(wanted) == 6
        assert losses(str(tmp_path / name / "fsdp")) == pytest.approx(wanted, rel=2e-4), name
        stopped = str(tmp_path / name / "stopped")
        assert not (Path(stopped) / "metrics.jsonl").exists()
        job = Job(stopped, "d", kinds["fsdp"], (Source(pairs),))
        assert Trainer(job).step == 3
        run(job, lambda step, note: None)
        assert losses(stopped) == pytest.approx(wanted, rel=2e-4), name


@pytest.mark.long
@pytest.mark.slow
def test_pieces_of_four_processes_are_taken_by_two_and_by_one(
    pairs: str, small: Callable[..., TrainSettings], tmp_path: Path
) -> None:
    """What two of them leave is torn: they go on from the one before."""
    changes: dict[str, Any] = {"steps": 8, "checkpoint_every": 2, "keep_checkpoints": 2}
    settings = small("clip", sharding="fsdp", ema=0.5, **changes)
    url, whole = str(tmp_path / "url"), str(tmp_path / "whole")
    run(Job(whole, "d", settings, (Source(pairs),)), lambda step, note: None)
    for count, stop in ((4, 5), (2, 7)):
        runs = [(url, settings.model_dump(mode="json"), pairs, stop)]
        (tmp_path / "runs.json").write_text(json.dumps(runs))
        together(count, "-c", RUNS, str(tmp_path / "runs.json"))
        there = [path.stat().st_size for path in Path(url, KEPT).glob(f"*4-?-of-{count}.saf*")]
        if count == 4:
            assert len(there) == 4
            (all_of_it,) = Path(whole, KEPT).glob("checkpoint-000000004-0-of-1.safetensors")
            assert max(there) < 0.5 * all_of_it.stat().st_size
            assert read_saved(url).step == 4  # type: ignore[union-attr]
    torn = Path(url, KEPT, "checkpoint-000000006-1-of-2.safetensors")
    torn.write_bytes(torn.read_bytes()[:-9])
    job = Job(url, "d", settings, (Source(pairs),))
    assert Trainer(job).step == 4  # by four processes
    run(job, lambda step, note: None)
    assert losses(url) == pytest.approx(losses(whole), rel=2e-4)


def test_blocks_are_the_innermost_rows(small: Callable[..., TrainSettings]) -> None:
    kinds = {
        name: {type(block).__name__ for block in blocks(objectives.build(small(name)))}
        for name in ("clip", "mae", "rotnet", "dino")
    }
    assert kinds == {
        "clip": {"ResidualAttentionBlock"},
        "mae": {"Block"},
        "rotnet": {"BasicBlock", "Bottleneck"},
        "dino": {"Block"},
    }


def test_scalars_learn_in_groups_of_their_own() -> None:
    module = nn.Linear(2, 2)
    module.scale = nn.Parameter(torch.ones(()))
    groups = [
        {"params": [module.weight], "decays": True},
        {"params": [module.scale, module.bias], "decays": False, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    part_scalars(optimizer)
    found = [(group["params"], group["decays"]) for group in optimizer.param_groups]
    assert found == [([module.weight], True), ([module.bias], False), ([module.scale], False)]
