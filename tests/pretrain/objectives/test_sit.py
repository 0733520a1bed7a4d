import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from infra.errors import SluiceError
from pretrain import capabilities, micro
from pretrain.curriculum import Curriculum
from pretrain.loop import deterministic
from pretrain.masked_images import enlarge
from pretrain.objectives import sit as module
from pretrain.objectives.sit import (
    Sit,
    _cell,
    build,
    contrast,
    overwrite,
    rebuilding_error,
    turn,
)
from pretrain.settings import TrainSettings
from tests.pretrain.batches import batch
from tests.pretrain.networks import SWIN

CPU = torch.device("cpu")


def make(small: Callable[..., Any], **changes: Any) -> Sit:
    """Of small sizes, with these options on top."""
    options = {"hidden": 16, "dim": 8}
    return build(small("sit", options={**options, **changes}))


@pytest.fixture
def sit(small: Callable[..., Any]) -> Sit:
    return make(small)


def test_the_error_is_the_direct_formula_over_the_hidden_pixels() -> None:
    rng = np.random.default_rng(0)
    predicted, images = rng.normal(size=(2, 3, 3, 4, 4))
    hidden = rng.random((3, 4, 4)) < 0.5
    expected = []
    for image in range(3):
        places = [(y, x) for y in range(4) for x in range(4) if hidden[image, y, x]]
        terms = [
            abs(predicted[image, c, y, x] - images[image, c, y, x])
            for y, x in places
            for c in range(3)
        ]
        expected.append(sum(terms) / len(terms))
    args = [torch.from_numpy(each) for each in (predicted, images, hidden)]
    found = rebuilding_error(*args)
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    beside = torch.from_numpy(~hidden)[:, None] * 9.0
    assert torch.equal(rebuilding_error(args[0] + beside, *args[1:]), found)


def by_hand(queries: np.ndarray, keys: np.ndarray, temperature: float) -> float:
    total = 0.0
    for row, query in enumerate(queries):
        alike = [np.exp(query @ key / temperature) for key in keys]
        total -= np.log(alike[row] / sum(alike))
    return total / len(queries)


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    values = rng.normal(size=shape)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def test_the_contrast_is_the_direct_formula() -> None:
    rng = np.random.default_rng(1)
    queries, keys = unit(rng, 4, 5), unit(rng, 4, 5)
    found = contrast(torch.from_numpy(queries), torch.from_numpy(keys), torch.arange(4), 0.2)
    assert found.item() == pytest.approx(by_hand(queries, keys, 0.2), rel=1e-12)


def test_each_view_is_compared_with_the_other_view_alone(sit: Sit) -> None:
    """A key of the very same view would be found without learning anything."""
    rng = np.random.default_rng(2)
    queries, keys = unit(rng, 4, 2, 8), unit(rng, 4, 2, 8)
    features = (torch.from_numpy(queries), torch.from_numpy(keys), torch.zeros(4, 2).double())
    loss, figures = sit.compare(features, {}, 0.0)
    halves = [by_hand(queries[:, view], keys[:, 1 - view], 0.2) for view in range(2)]
    assert loss.item() == pytest.approx(sum(halves) / 2, rel=1e-6)
    assert loss.item() == pytest.approx(figures["contrast"].item())


def test_processes_have_the_mean_loss_of_one(sit: Sit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each finds its own samples' keys among those of all."""
    rng = np.random.default_rng(3)
    parts = [torch.from_numpy(each) for each in (unit(rng, 6, 2, 8), unit(rng, 6, 2, 8))]
    features = (*parts, torch.from_numpy(rng.random((6, 2))))
    whole, _ = sit.compare(features, {}, 0.0)
    monkeypatch.setattr(module, "gather", lambda keys: features[1])
    halves = []
    for first in (0, 3):
        monkeypatch.setattr(module, "before", lambda count, first=first: first)
        own = tuple(each[first : first + 3] for each in features)
        halves.append(sit.compare(own, {}, 0.0)[0])
    assert sum(halves).item() / 2 == pytest.approx(whole.item(), rel=1e-9)


def test_groups_of_as_many_patches_are_hidden_in_every_view(small: Callable[..., Any]) -> None:
    sit = build(small("sit", image_size=64, options={"corrupt": 0.5}))
    hidden, foreign = sit._masks(batch(5))
    assert hidden.shape == foreign.shape == (10, 8, 8)
    assert hidden.sum((1, 2)).tolist() == [32] * 10
    assert foreign.sum((1, 2)).tolist() == [22] * 10
    beside = np.zeros_like(hidden)
    beside[:, 1:] |= hidden[:, :-1]
    beside[:, :-1] |= hidden[:, 1:]
    beside[:, :, 1:] |= hidden[:, :, :-1]
    beside[:, :, :-1] |= hidden[:, :, 1:]
    assert (hidden & beside).sum() > 0.95 * hidden.sum()
    assert not np.array_equal(hidden[0], hidden[5])  # two views of one image


def test_an_image_alone_is_hidden_by_noise(sit: Sit) -> None:
    assert not sit._masks(batch(1))[1].any()


def test_what_is_hidden_does_not_reach_the_network() -> None:
    generator = torch.Generator().manual_seed(0)
    images, noise = torch.randn(2, 3, 3, 8, 8, generator=generator).unbind()
    hidden = torch.rand(3, 8, 8, generator=generator) < 0.6
    nothing = torch.zeros_like(hidden)
    found = overwrite(images, noise, hidden, nothing)
    covered = hidden[:, None].expand_as(images)
    assert torch.equal(found[~covered], images[~covered])
    assert torch.equal(overwrite(images + 5 * covered, noise, hidden, nothing), found)
    mixed = overwrite(images, noise, hidden, ~nothing)
    assert torch.equal(mixed[covered], images.roll(1, 0)[covered])
    assert torch.equal(mixed[~covered], images[~covered])


def test_views_are_a_matter_of_position(small: Callable[..., Any]) -> None:
    sit = make(small, foreign=0.0, rotation=1.0)
    found = sit.views(batch(4), CPU)
    again = sit.views(batch(2, first=2), CPU)
    assert found["corrupted"].shape == (8, 3, 32, 32)
    assert torch.equal(again["hidden"], found["hidden"][[2, 3, 6, 7]])
    assert torch.equal(again["turns"], found["turns"][[2, 3, 6, 7]])
    covered = enlarge(found["hidden"], 32, 32)[:, None].expand(-1, 3, -1, -1)
    assert torch.equal(found["corrupted"][~covered], found["images"][~covered])
    inside = found["corrupted"][covered]
    assert inside.mean().abs() < 0.05 and (inside.std() - 1).abs() < 0.05
    windows = [sit._noise(batch(4), view) for view in range(2)]
    assert torch.equal(sit._noise(batch(2, first=2), 1), windows[1][2:])
    assert not torch.equal(*windows)


def test_the_slow_network_sees_whole_views_and_is_not_trained(sit: Sit) -> None:
    views = sit.views(batch(4), CPU)
    loss, _ = sit(views, 0.0)
    loss.backward()
    assert all(value.grad is not None for value in sit.trained())
    kept = [*sit.slow.parameters(), *sit.slow_head.parameters()]
    assert all(value.grad is None and not value.requires_grad for value in kept)
    keys = sit.features(views)[1]
    seen = torch.nn.functional.normalize(sit.slow_head(sit.slow(views["images"])), dim=-1)
    assert torch.allclose(keys.transpose(0, 1).flatten(0, 1), seen, atol=1e-6)


@pytest.mark.parametrize(("progress", "moved"), [(0.0, 0.1), (1.0, 0.0)])
def test_the_slow_network_follows_ever_more_slowly(
    small: Callable[..., Any], progress: float, moved: float
) -> None:
    sit = make(small, momentum=0.9)
    before = sit.slow.patch_embed.proj.weight.clone()
    with torch.no_grad():
        sit.model.patch_embed.proj.weight.add_(1.0)
    sit.after_update(progress)
    assert torch.allclose(sit.slow.patch_embed.proj.weight, before + moved, atol=1e-6)


def test_rotation_turns_views_and_is_told(small: Callable[..., Any]) -> None:
    images = torch.arange(2 * 3 * 16.0).reshape(2, 3, 4, 4).repeat(2, 1, 1, 1)
    found = turn(images, torch.arange(4))
    for quarter in range(4):
        assert torch.equal(found[quarter], images[quarter].rot90(quarter, (1, 2)))
    plain, turned = make(small), make(small, rotation=1.0, contrast=0.0, reconstruction=0.0)
    assert plain.turned is None and "turns" not in plain.views(batch(2), CPU)
    views = turned.views(batch(8), CPU)
    untold = turn(plain.views(batch(8), CPU)["images"], views["turns"])
    assert torch.equal(untold, views["images"])
    assert len(views["turns"].unique()) == 4
    logits = turned.features(views)[3].transpose(0, 1).flatten(0, 1).detach().double().numpy()
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    right = shares[np.arange(16), views["turns"].numpy()]
    loss, figures = turned(views, 0.0)
    assert loss.item() == pytest.approx(-np.log(right).mean(), rel=1e-5)
    assert {"rotation", "rotation_accuracy"} <= figures.keys()


@pytest.mark.parametrize("changes", [{}, SWIN, {"model": "test_convnext", "model_kwargs": {}}])
def test_pixels_are_rebuilt_from_any_square_map(
    small: Callable[..., Any], changes: dict[str, Any]
) -> None:
    sit = build(small("sit", **changes))
    views = sit.views(batch(3), CPU)
    loss, figures = sit(views, 0.5)
    assert torch.isfinite(loss) and figures["reconstruction"] > 0.5
    assert figures["reconstruction"] < 3


def test_a_network_without_such_a_map_is_refused(small: Callable[..., Any]) -> None:
    with capabilities.unheeded():
        settings = small("sit", model="crossvit_tiny_240", model_kwargs={}, image_size=240)
    with pytest.raises(SluiceError, match="sit cannot train a CrossVit"):
        build(settings)


@pytest.mark.parametrize(
    ("model", "size", "expected"),
    [("patch16", 224, 16), ("patch4", 224, 16), ("overlapping", 64, 4), ("none", 64, 4)],
)
def test_cells_are_whole_patches(model: str, size: int, expected: int) -> None:
    patch = {"patch16": (16, 16), "patch4": 4, "overlapping": (7, 7), "none": 1}[model]
    embed = type("Embed", (), {"patch_size": patch})()
    network = type("Network", (), {"patch_embed": embed} if model != "none" else {})()
    assert _cell(network, size) == expected


def test_one_patch_no_task_and_one_image_are_refused(small: Callable[..., Any]) -> None:
    with pytest.raises(SluiceError, match="one patch of 32"):
        build(small("sit", model_kwargs={"patch_size": 32, "embed_dim": 24, "num_heads": 2}))
    with pytest.raises(ValidationError, match="36 is not divisible by the model's patch size 8"):
        small("sit", image_size=36)
    with pytest.raises(ValidationError, match="nothing is learnt"):
        make(small, reconstruction=0, contrast=0)
    with pytest.raises(ValidationError, match="at least 2"):
        TrainSettings.model_validate({"objective": "sit", "batch": 1})


def test_a_curriculum_shrinks_views_and_keeps_what_is_hidden(small: Callable[..., Any]) -> None:
    stages = [{"until": 0.5, "size": 16}, {"until": 1.0, "size": 32}]
    settings = small("sit", curriculum=stages)
    sit = build(settings)
    curriculum = Curriculum(settings, sit)
    views = sit.views(batch(2), CPU)
    curriculum.check(sit, views)
    fewer = curriculum.shrink(views, 16)
    assert fewer["corrupted"].shape == (4, 3, 16, 16)
    assert torch.equal(fewer["hidden"], views["hidden"])
    assert torch.isfinite(sit(fewer, 0.0)[0])


def test_micro_batches_have_the_gradient_of_the_whole(small: Callable[..., Any]) -> None:
    sit = make(small, rotation=1.0)
    views = sit.views(batch(6), CPU)
    gradients = []
    for size in (6, 2):
        sit.zero_grad()
        loss, _ = micro.cached(sit, views, 0.5, 6, size, contextlib.nullcontext)
        gradients.append([loss, *(value.grad for value in sit.trained())])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def taught(sit: Sit, views: dict[str, Any], steps: int) -> list[float]:
    """The loss of each step, the slow network following."""
    optimizer = torch.optim.AdamW(sit.trained(), lr=3e-3)
    found: list[float] = []
    with deterministic(1):
        for step in range(steps):
            loss, _ = sit(views, step / steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sit.after_update(step / steps)
            found.append(loss.item())
    return found


@pytest.mark.parametrize(
    ("task", "left"), [("reconstruction", 0.8), ("contrast", 0.75), ("rotation", 0.8)]
)
def test_twenty_steps_lower_the_loss_of_each_task(
    small: Callable[..., Any], task: str, left: float
) -> None:
    rng = np.random.default_rng(0)
    shades = rng.integers(0, 128, (8, 1, 1, 3), dtype=np.uint8)
    images = shades + rng.integers(0, 64, (8, 48, 48, 3), dtype=np.uint8)
    weights = {name: float(name == task) for name in ("reconstruction", "contrast", "rotation")}
    sit = make(small, jitter=0, grey=0, momentum=0.99, **weights)
    views = sit.views(dataclasses.replace(batch(8), images=images), CPU)
    found = taught(sit, views, 20)
    assert found[-1] < left * found[0]
