import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models import SwinTransformer

from indexes import bfloat16
from pretrain import health, objectives, options
from pretrain.clock import Clock, Spent
from pretrain.health import (
    Alarm,
    Watch,
    collapse,
    duplicates,
    effective_rank,
    low_rank,
    same_captions,
    same_features,
    spike,
    stalled,
    starvation,
    unsuited,
)
from pretrain.loop import deterministic
from pretrain.tap import Tap
from tests.pretrain.batches import batch
from tests.pretrain.taught import label_map, record


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def rank_by_hand(features: np.ndarray) -> float:
    """RankMe, eqs. 1 and 2, with loops."""
    values = np.sqrt(np.clip(np.linalg.eigvalsh(features.T @ features), 0, None))
    total = sum(values)
    shares = [value / total + 1e-7 for value in values]
    return math.exp(-sum(share * math.log(share) for share in shares))


@pytest.mark.parametrize("shape", [(64, 16), (40, 8), (8, 8)])
def test_effective_rank_is_rankme(shape: tuple[int, int]) -> None:
    features = normal(*shape)
    assert effective_rank(features) == pytest.approx(rank_by_hand(features.numpy()), rel=1e-4)


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_effective_rank_of_equal_directions_is_their_number(rank: int) -> None:
    left = torch.linalg.qr(normal(50, rank))[0]
    right = torch.linalg.qr(normal(20, rank, seed=1))[0]
    assert effective_rank(left @ right.T) == pytest.approx(rank, rel=1e-3)


@pytest.mark.parametrize(
    ("figures", "alarms"),
    [
        ({"entropy": 0.6, "usage": 0.8}, False),
        ({"entropy": 0.9, "usage": 1.0}, False),  # Sinkhorn uses all prototypes
        ({"entropy": 0.995, "usage": 0.999}, True),
        ({"entropy": 0.02, "usage": 0.05}, True),
        ({"near_duplicates": 0.02}, False),
        ({"near_duplicates": 0.9}, True),
        ({"spread": 0.8}, False),
        ({"spread": 0.01}, True),
        ({"accuracy": 0.0}, False),
        ({}, False),
    ],
)
def test_collapse_by_the_objectives_own_figures(figures: dict[str, float], alarms: bool) -> None:
    assert bool(collapse(figures)) is alarms


def test_a_low_rank_is_one_in_itself_or_beside_what_it_was() -> None:
    assert low_rank(1.2, 1.2)
    assert low_rank(8.0, 40.0)
    assert not low_rank(30.0, 40.0)
    assert not low_rank(3.0, 3.0)


def losses(count: int, noise: float, end: float = 0.0, seed: int = 0) -> list[float]:
    """A falling curve with noise of a share of it."""
    rng = np.random.default_rng(seed)
    clean = end + np.exp(-np.arange(count) / 40)
    return (clean * (1 + noise * rng.normal(size=count))).tolist()


def spikes(values: Sequence[float]) -> list[int]:
    return [at for at, loss in enumerate(values) if spike(loss, values[max(at - 50, 0) : at])]


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_falling_and_noisy_losses_are_no_spikes(noise: float, seed: int) -> None:
    assert not spikes(losses(300, noise, 0.3, seed))
    assert not spikes([4 + 0.3 * math.sin(at / 9) for at in range(300)])
    assert not spikes([1 + at / 300 for at in range(300)])  # rises slowly


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1])
def test_a_spike_is_found_and_does_not_hide_the_next(noise: float) -> None:
    values = losses(300, noise, 0.3)
    for at in (120, 121, 240):
        values[at] *= 4
    assert spikes(values) == [120, 121, 240]


def test_the_first_losses_are_compared_with_nothing() -> None:
    assert not spikes([1.0] * 9 + [50.0])
    assert spikes([1.0] * 10 + [50.0])
    assert spikes([-3.0] * 20 + [-1.0])  # losses below zero, too


def test_starvation_is_a_share_of_the_time() -> None:
    assert not starvation(0.0, 0.0)
    assert not starvation(0.5, 10.0)
    sign = starvation(3.0, 7.0)
    assert sign is not None
    assert "30% of the time" in sign[0]
    assert "threads" in sign[1]


def test_the_reader_is_stalled_when_dead_or_silent() -> None:
    assert not stalled(5.0, True)
    assert "no batch for 90 s" in str(stalled(90.0, True))
    assert "died" in str(stalled(1.0, False))


def test_a_precision_that_the_processor_is_not_made_for_is_said_once(
    small: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    low = small("mae", precision="bfloat16")
    monkeypatch.setattr(bfloat16, "native", lambda device: True)
    assert Watch().begin(0, low, "cpu") == []
    monkeypatch.setattr(bfloat16, "native", lambda device: device != "cpu")
    assert Watch().begin(0, low, "cuda") == Watch().begin(0, small("mae"), "cpu") == []
    watch = Watch()
    [alarm] = watch.begin(0, low, "cpu")
    assert str(alarm) == (
        "step 0: precision: this processor has no instructions for bfloat16: a step takes longer "
        "than in float32; set precision: float32, or train where there are such"
    )
    assert "several times as long" in unsuited(low.model_copy(update={"compile": True}), "cpu")[0]  # type: ignore[index]
    watch.save(str(tmp_path))
    again = Watch()
    again.load(str(tmp_path), 3)
    assert again.begin(3, low, "cpu") == []
    assert again.alarms == [alarm]


def test_duplicates_by_caption_and_by_feature() -> None:
    assert same_captions(["a", "b", "", ""]) == 0
    assert same_captions(["a", "b", "a", "c"]) == 0.5
    features = normal(20, 8) + 50  # young networks: all alike but for little
    assert same_features(features) == 0
    features[3] = features[7] + 1e-4
    assert same_features(features) == pytest.approx(0.1)
    assert same_features(torch.ones(20, 8)) == 0  # that is collapse, and the rank tells
    assert not duplicates(0.04, 0.0)
    assert "caption" in str(duplicates(0.3, None))
    assert "near equal" in str(duplicates(None, 0.3))


def test_nothing_is_said_of_a_sound_run() -> None:
    watch = Watch(warmup=10)
    for step, loss in enumerate(losses(80, 0.1, 0.3)):
        features = normal(32, 16, seed=step) + 3
        figures = {"entropy": 0.7, "usage": 0.9}
        assert not watch.observe(step, loss, figures, 0.01, 1.0, features, 0.03)
    assert watch.figures["effective_rank"] > 5


def names(alarms: Sequence[Alarm]) -> list[str]:
    return [alarm.name for alarm in alarms]


def test_an_alarm_is_raised_once_and_again_after_a_while() -> None:
    watch = Watch()
    steps = [
        step
        for step in range(250)
        if "collapse" in names(watch.observe(step, 1.0, {"usage": 0.0}, 0, 1))
    ]
    assert steps == [2, 102, 202]  # after three in a row, then every hundred


def test_collapse_is_not_looked_for_in_the_warmup_and_must_last() -> None:
    watch = Watch(warmup=20)
    for step in range(20):
        assert not watch.observe(step, 1.0, {"usage": 0.0}, 0, 1, torch.ones(8, 4))
    for step in range(20, 30):
        assert not watch.observe(step, 1.0, {"usage": 0.9 * (step % 2)}, 0, 1)
    found = [names(watch.observe(step, 1.0, {}, 0, 1, torch.ones(8, 4))) for step in range(30, 34)]
    assert found == [[], [], ["rank"], []]


def test_a_starving_run_and_a_repeated_batch_are_told_of() -> None:
    watch = Watch()
    told: list[Alarm] = []
    for step in range(12):
        features = normal(8, 4, seed=step).repeat(2, 1)
        told += watch.observe(step, 1.0, {}, 0.5, 0.5, features, 1.0)
    assert sorted(names(told)) == ["duplicates", "starvation"]
    assert "50%" in next(alarm.seen for alarm in told if alarm.name == "starvation")
    assert all(alarm.todo for alarm in told)
    assert names(watch.missing(12, 70.0, True)) == ["stalled"]


def test_features_that_are_no_numbers_are_left_alone() -> None:
    watch = Watch()
    assert not watch.observe(1, 1.0, {}, 0, 1, torch.full((8, 4), math.nan))
    assert not watch.figures


def test_alarms_are_lines_of_a_file_and_go_on_after_a_stop(tmp_path: Path) -> None:
    watch = Watch()
    watch.save(str(tmp_path))
    assert not (tmp_path / health.ALARMS).exists()
    watch.alarms = [Alarm("spike", step, "seen", "do") for step in (5, 15)]
    watch.save(str(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / health.ALARMS).read_text().splitlines()]
    assert lines[0] == {"name": "spike", "step": 5, "seen": "seen", "todo": "do"}
    resumed = Watch()
    resumed.load(str(tmp_path), 10)  # from the checkpoint of step 10
    assert resumed.alarms == watch.alarms[:1]


QUICK = ("clip", "dino", "mae", "spark")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in options.names()
        if name != "joint"  # wants sources with names; its encoder is that of its parts
    ],
)
def test_features_of_every_objective_are_tapped(name: str, small: Callable[..., Any]) -> None:
    objective = objectives.build(small(name)).train()
    fields = {"class": "red", "labels": ["red"], "concept": "red"}
    columns = {"teacher": record(0), "label_map": label_map(0)}
    with torch.no_grad(), deterministic(1):
        taught = batch(8, texts=[json.dumps(fields)] * 8, columns=[columns] * 8)
        views = objective.views(taught, torch.device("cpu"))
        tap = Tap(objective)
        tap.start(wanted=True)
        objective(views, 0.5)
        features = tap.take(8)
        assert features is not None
        assert features.shape[0] == 8
        assert features.ndim == 2
        assert 1 <= effective_rank(features) <= 8
        tap.start(wanted=False)
        objective(views, 0.5)
    assert tap.take(8) is None


def swin() -> Any:
    """Gives its features channels last."""
    sizes = {"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (1, 1)}
    return SwinTransformer(num_heads=(1, 2), num_classes=0, **sizes)


@pytest.mark.parametrize("model", ["test_vit", "test_resnet", "test_convnext", "swin"])
def test_features_are_one_vector_an_image(model: str) -> None:
    network: Any = swin() if model == "swin" else timm.create_model(model, num_classes=0)
    side = 160 if model == "test_vit" else 32
    tap = Tap(network)
    tap.start(wanted=True)
    with torch.no_grad(), deterministic(1):
        network.eval()(normal(3, 3, side, side).float())
    features = tap.take(2)
    assert features is not None
    assert tuple(features.shape) == (2, network.num_features)
    tap.close()
    assert not any(layer._forward_hooks for layer in network.modules())


def test_a_clock_tells_waiting_from_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    clock = Clock(torch.device("cpu"))
    for waits, works in ((5.0, 9.0), (1.0, 3.0), (2.0, 4.0)):  # the first step is no measure
        now += waits
        clock.got()
        now += works
        clock.done()
    assert clock.read() == (3.0, 7.0)
    assert clock.read() == (0.0, 0.0)
    assert clock.spent == Spent(steps=2, waited=3.0, stepped=7.0, first=14.0)
    assert clock.spent.words(10) == "2 images a second, 30% of the time waiting for data"
    assert Spent().words(10) == "too few steps to tell"


def test_what_a_run_measured_is_kept_beside_it(tmp_path: Path) -> None:
    assert Spent.load(str(tmp_path)) is None
    spent = replace(Spent(), steps=3, waited=1.5, peak=9)
    spent.save(str(tmp_path))
    assert Spent.load(str(tmp_path)) == spent
