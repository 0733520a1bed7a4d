import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from infra import artifacts
from infra.errors import SluiceError
from pretrain import objectives
from pretrain.curriculum import Curriculum, low_frequencies
from pretrain.data import Source
from pretrain.job import Job
from pretrain.loop import Trainer, run
from pretrain.settings import TrainSettings
from pretrain.stages import efficient_train
from tests.pretrain.batches import batch

Small = Callable[..., TrainSettings]
STAGES = [
    {"until": 0.4, "size": 16, "strength": 0.0},
    {"until": 0.7, "size": 24, "strength": 0.5},
    {"until": 1.0},
]


def slow_low_frequencies(image: np.ndarray, size: int) -> np.ndarray:
    """[side, side] -> [size, size], term by term of both transforms."""
    side = len(image)
    place, point = np.arange(side), np.arange(size)
    found = np.zeros((size, size), complex)
    kept = range(-(size // 2), (size + 1) // 2)
    for u in kept:
        for v in kept:
            wave = np.exp(-2j * np.pi * (u * place[:, None] + v * place) / side)
            back = np.exp(2j * np.pi * (u * point[:, None] + v * point) / size)
            found += (image * wave).sum() * (size / side) ** 2 * back / size**2
    return found.real


@pytest.mark.parametrize(("side", "size"), [(14, 10), (14, 7), (9, 4), (8, 8)])
def test_low_frequencies_are_those_of_the_direct_formula(side: int, size: int) -> None:
    images = np.random.default_rng(0).normal(3, 1, (2, 3, side, side))
    found = low_frequencies(torch.from_numpy(images), size).numpy()
    both = zip(found.reshape(-1, size, size), images.reshape(-1, side, side), strict=True)
    for each, wanted in both:
        np.testing.assert_allclose(each, slow_low_frequencies(wanted, size), atol=1e-10)
    np.testing.assert_allclose(found.mean((2, 3)), images.mean((2, 3)), atol=1e-10)  # DC


def test_a_slow_wave_keeps_its_height_and_a_fast_one_goes() -> None:
    x = np.arange(224)
    slow, fast = np.cos(2 * np.pi * 5 * x / 224), np.cos(2 * np.pi * 90 * x / 224)
    image = torch.from_numpy(np.tile(slow + fast, (224, 1)))[None, None]
    found = low_frequencies(image, 160)[0, 0].numpy()
    np.testing.assert_allclose(
        found, np.tile(np.cos(2 * np.pi * 5 * np.arange(160) / 160), (160, 1)), atol=1e-9
    )


def test_at_full_size_an_image_stays_as_it_is() -> None:
    images = torch.rand(2, 3, 8, 8)
    assert low_frequencies(images, 8) is images
    flat = low_frequencies(torch.full((1, 3, 8, 8), 0.25), 5)
    torch.testing.assert_close(flat, torch.full((1, 3, 5, 5), 0.25))


def test_the_published_stages() -> None:
    stages = efficient_train(224, 16)
    assert [stage.size for stage in stages] == [160, 160, 160, 192, 224]
    assert [stage.until for stage in stages] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert [stage.strength * 9 for stage in stages] == pytest.approx([1, 3, 5, 7, 9])
    assert [stage.size for stage in efficient_train(64, 8)] == [48, 48, 48, 56, 64]


def test_every_image_of_a_view_shrinks_and_nothing_else(small: Small) -> None:
    settings = small("dino", curriculum=STAGES, steps=10)
    objective = objectives.build(settings)
    curriculum = Curriculum(settings, objective)
    sizes = [curriculum.stage(step).size for step in range(10)]
    assert sizes == [16] * 4 + [24] * 3 + [None] * 3
    views = {"global": torch.rand(4, 3, 32, 32), "local": torch.rand(4, 3, 16, 16)}
    views |= {"mask": torch.rand(4, 32, 32), "target": torch.rand(4, 5)}
    small_views = curriculum.shrink(views, 16)
    assert {name: tuple(value.shape[1:]) for name, value in small_views.items()} == {
        "global": (3, 16, 16),
        "local": (3, 8, 8),
        "mask": (32, 32),
        "target": (5,),
    }
    assert curriculum.shrink(views, None)["global"] is views["global"]


def test_a_teacher_sees_all(small: Small, runs: dict[str, str]) -> None:
    settings = small("clip_distill", options={"teacher": runs["clip"]})
    curriculum = Curriculum(settings, objectives.build(settings))
    views = {"images": torch.rand(2, 3, 32, 32), "teacher_images": torch.rand(2, 3, 32, 32)}
    found = curriculum.shrink(views, 16)
    assert found["images"].shape[-1] == 16 and found["teacher_images"].shape[-1] == 32


@pytest.mark.parametrize("name", ["clip", "dino", "supervised"])
def test_strength_weakens_the_colours_alone(name: str, small: Small) -> None:
    options: dict[str, Any] = {"jitter": 0.4}
    if name == "supervised":
        options |= {"classes": ["red", "b"], "label": "class"}
    objective = objectives.build(small(name, options=options))
    drawn = batch(4, texts=[json.dumps({"class": "red"})] * 4)
    key = "global" if name == "dino" else "images"
    found = [
        objective.views(replace(drawn, strength=strength), torch.device("cpu"))[key]
        for strength in (1.0, 0.5, 0.0)
    ]
    off = [(each - found[2]).abs().mean().item() for each in found]
    assert off[0] > 1.5 * off[1] > 0
    plain = objectives.build(small(name, options={**options, "jitter": 0.0}))
    torch.testing.assert_close(
        found[2], plain.views(drawn, torch.device("cpu"))[key], atol=1e-5, rtol=1e-4
    )


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("name", ["rotnet", "dino"])
def test_a_run_through_all_stages_resumes(
    name: str, pairs: str, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within the second stage; the network gets images of each stage's size."""
    seen: list[int] = []
    gradients = Trainer.gradients

    def watch(trainer: Trainer, views: Any, progress: float) -> Any:
        seen.append(next(iter(views.values())).shape[-1])
        return gradients(trainer, views, progress)

    monkeypatch.setattr(Trainer, "gradients", watch)

    def stop(step: int, note: str) -> None:
        if step == 6:
            raise StoppedError

    settings = small(name, steps=10, curriculum=STAGES, checkpoint_every=5)
    jobs = [Job(str(tmp_path / n), "d", settings, (Source(pairs),)) for n in ("whole", "broken")]
    run(jobs[0], lambda step, note: None)
    assert seen == [16] * 4 + [24] * 3 + [32] * 3
    with pytest.raises(StoppedError):
        run(jobs[1], stop)
    run(jobs[1], lambda step, note: None)
    assert seen[16:] == [24] * 2 + [32] * 3
    parts = [artifacts.recorded_parts(job.url).parts[0].files for job in jobs]
    assert parts[0] == parts[1]


@pytest.mark.parametrize("name", ["mae", "clip", "simmim"])
def test_what_takes_one_size_is_refused_before_the_first_step(
    name: str, pairs: str, small: Small, tmp_path: Path
) -> None:
    told: list[int] = []
    job = Job(str(tmp_path), "d", small(name, curriculum=STAGES), (Source(pairs),))
    with pytest.raises(
        SluiceError, match=f"{name} cannot learn from images of 16 pixels"
    ) as caught:
        run(job, lambda step, note: told.append(step))
    assert "leave curriculum out" in caught.value.way_out
    assert told == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"curriculum": []}, "rising shares"),
        ({"curriculum": [{"until": 0.5}]}, "the last 1"),
        ({"curriculum": [{"until": 1, "size": 128}]}, "128 pixels, and image_size is 64"),
        ({"curriculum": [{"until": 1, "size": 42}]}, "patch size 8 does not divide; use 40"),
        ({"curriculum": [{"until": 1, "strength": 2}]}, "less than or equal to 1"),
        ({"curriculum": "efficient"}, "efficienttrain"),
        ({"curriculum": "efficienttrain", "compile": True}, "compile is of one image size"),
        ({"sharding": "fsdp", "optimizer": "lamb"}, "lamb needs the norm of whole weights"),
    ],
)
def test_a_mistake_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainSettings.model_validate({"objective": "dino", **changes})
