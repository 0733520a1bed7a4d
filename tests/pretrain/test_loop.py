import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from infra import artifacts, filesystem
from infra.dataset import read_samples
from infra.errors import SluiceError
from pretrain import options
from pretrain.data import Source, Stream
from pretrain.job import Job
from pretrain.loop import deterministic, pick_device, run


class StoppedError(Exception):
    """Stands for a killed process: nothing is cleaned up."""


def stop_at(step: int) -> Callable[[int, str], None]:
    def progress(done: int, note: str) -> None:
        if done == step:
            raise StoppedError

    return progress


def go(step: int, note: str) -> None:
    return None


def finished(job: Job) -> artifacts.Part:
    """What a run leaves, made now if it is not there."""
    run(job, go)
    return artifacts.recorded_parts(job.url).parts[0]


def files(url: str) -> dict[str, bytes]:
    part = artifacts.recorded_parts(url).parts[0]
    return {file.path: (Path(url) / file.path).read_bytes() for file in part.files}


@pytest.mark.slow
@pytest.mark.parametrize("objective", options.names())
def test_a_run_that_was_stopped_gives_the_same_bytes(
    objective: str, pairs: str, greys: str, small: Callable[..., Any], tmp_path: Path
) -> None:
    """Checkpoints stand at 7 and 14: stopped after 7 of 20 steps, and between checkpoints."""
    settings = small(objective)
    sources = (Source(pairs, 0.7), Source(greys, 0.3))
    whole = Job(str(tmp_path / "whole"), "digest", settings, sources)
    run(whole, go)
    broken = Job(str(tmp_path / "broken"), "digest", settings, sources)
    for step in (8, 17):
        with pytest.raises(StoppedError):
            run(broken, stop_at(step))
    resumed: list[tuple[int, str]] = []
    run(broken, lambda step, pulse: resumed.append((step, pulse.note)))
    assert resumed[0] == (14, "resumed")
    assert files(broken.url) == files(whole.url)
    parts = [artifacts.recorded_parts(job.url).parts[0] for job in (whole, broken)]
    assert parts[0] == parts[1]


def test_dropout_and_drop_path_resume_too(
    pairs: str, small: Callable[..., Any], tmp_path: Path
) -> None:
    base = small("mae").model_kwargs
    settings = small("mae", steps=10, model_kwargs={**base, "proj_drop_rate": 0.5})
    jobs = [Job(str(tmp_path / n), "d", settings, (Source(pairs),)) for n in ("whole", "broken")]
    run(jobs[0], go)
    with pytest.raises(StoppedError):
        run(jobs[1], stop_at(9))
    run(jobs[1], go)
    assert files(jobs[0].url) == files(jobs[1].url)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "lamb", "schedule": "constant", "cooldown": 0.3},
        {"optimizer": "lars", "lr": 0.1, "clip_grad": 1.0},
        {"optimizer": "sgd", "lr": 0.1, "nesterov": True, "layer_decay": 0.5},
        {"optimizer": "sgd", "lr": 0.1, "momentum": 0.0, "no_decay": "declared"},
        {"ema": 0.9, "precision": "bfloat16"},
        {"grad_checkpointing": True, "compile": True},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_whatever_trains_it_it_resumes(
    changes: dict[str, Any],
    pairs: str,
    small: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Making machine code takes a minute; what is compiled, and when, is the same without.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    settings = small("mae", steps=9, checkpoint_every=3, **changes)
    jobs = [Job(str(tmp_path / n), "d", settings, (Source(pairs),)) for n in ("whole", "broken")]
    run(jobs[0], go)
    for step in (4, 8):
        with pytest.raises(StoppedError):
            run(jobs[1], stop_at(step))
    run(jobs[1], go)
    assert files(jobs[0].url) == files(jobs[1].url)


def test_the_part_says_what_was_seen(
    pairs: str, greys: str, small: Callable[..., Any], tmp_path: Path
) -> None:
    sources = (Source(pairs, 0.7), Source(greys, 0.3))
    part = finished(Job(str(tmp_path), "digest", small("mae", log_every=8), sources))
    mix = {entry["source"]: entry for entry in part.extra["mix"]}
    grey = mix[artifacts.load(greys).digest]  # type: ignore[union-attr]
    assert part.extra["samples"] == 160 == sum(entry["samples"] for entry in mix.values())
    assert grey["share"] == pytest.approx(0.3)
    assert grey["mass"] == pytest.approx(0.3, abs=1 / 160)
    assert grey["undecodable"] == 2
    assert len(part.extra["undecodable"]) == 1
    lines = [json.loads(line) for line in files(str(tmp_path))["metrics.jsonl"].splitlines()]
    assert [line["step"] for line in lines] == [1, 8, 16, 20]
    assert lines[-1] == part.extra["final"]
    assert lines[1]["samples"] == 64
    timing = artifacts.recorded_parts(str(tmp_path)).timing
    assert timing["seconds"] > 0


def test_nothing_is_read_beyond_the_end_of_a_run(
    pairs: str, small: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where several processes read, one that went on would wait for those that have ended."""
    read: list[int] = []
    batch_of = Stream._next

    def noted(self: Stream, *given: Any) -> Any:
        batch = batch_of(self, *given)
        read.append(int(batch.places[0]))
        return batch

    monkeypatch.setattr(Stream, "_next", noted)
    run(Job(str(tmp_path), "d", small("mae", steps=5), (Source(pairs),)), go)
    assert read == [0, 8, 16, 24, 32]


def test_a_recorded_part_is_not_trained_again(
    pairs: str, small: Callable[..., Any], tmp_path: Path
) -> None:
    job = Job(str(tmp_path), "digest", small("mae", steps=2), (Source(pairs),))
    part = finished(job)
    steps: list[int] = []
    run(job, lambda step, note: steps.append(step))
    assert steps == [] and finished(job) == part


def test_a_diverging_run_stops_with_advice(
    pairs: str, small: Callable[..., Any], tmp_path: Path
) -> None:
    settings = small("mae", lr=1e30, warmup=0.0)
    with pytest.raises(SluiceError, match="loss is nan at step") as caught:
        run(Job(str(tmp_path), "digest", settings, (Source(pairs),)), go)
    assert "lower lr" in caught.value.way_out
    assert not artifacts.recorded_names(str(tmp_path))


def test_the_callers_torch_is_left_as_it_was() -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    state = torch.get_rng_state()
    with deterministic(1):
        assert torch.get_num_threads() == 1
        torch.manual_seed(7)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_a_gpu_that_is_not_there_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(SluiceError, match="sees no GPU"):
        pick_device("cuda")


def test_one_thread_or_cache_size_of_the_loader_changes_nothing(
    pairs: str, small: Callable[..., Any], tmp_path: Path
) -> None:
    jobs = [
        Job(str(tmp_path / str(mib)), "d", small("mae", steps=9, cache_mib=mib), (Source(pairs),))
        for mib in (0, 64)
    ]
    for job in jobs:
        run(job, go)
    assert files(jobs[0].url) == files(jobs[1].url)
    assert filesystem.exists(f"{jobs[0].url}/_work/checkpoint-000000007.json")


def test_precision_checkpointing_and_compiling_change_a_run_by_little(
    pairs: str, small: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))

    def loss(objective: str, **changes: Any) -> float:
        folder = tmp_path / "".join([objective, *changes])
        settings = small(objective, steps=5, **changes)
        return finished(Job(str(folder), "d", settings, (Source(pairs),))).extra["final"]["loss"]

    assert loss("dino", grad_checkpointing=True) == loss("dino", compile=True) == loss("dino")
    whole, half = loss("mae"), loss("mae", precision="bfloat16")
    assert half == pytest.approx(whole, rel=0.01)
    assert half != whole


def test_an_average_of_the_weights_is_what_is_left(
    pairs: str, small: Callable[..., Any], tmp_path: Path
) -> None:
    urls = {ema: str(tmp_path / str(ema)) for ema in (None, 0.9)}
    for ema, url in urls.items():
        run(Job(url, "d", small("mae", steps=4, ema=ema), (Source(pairs),)), go)
    plain, mean = (files(url) for url in urls.values())
    assert plain["metrics.jsonl"] == mean["metrics.jsonl"]
    assert plain["model.safetensors"] != mean["model.safetensors"]


def test_samples_without_any_caption_are_no_food_for_clip(
    version: Callable[..., str], pairs: str, small: Callable[..., Any], tmp_path: Path
) -> None:
    images = [(sample.image, {}) for sample in read_samples(pairs, 0)]
    job = Job(str(tmp_path / "run"), "d", small("clip"), (Source(version(tmp_path, images)),))
    with pytest.raises(SluiceError, match="none of the first 8 samples has a caption"):
        run(job, go)
