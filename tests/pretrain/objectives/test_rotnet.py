from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.objectives.rotnet import Rotnet, build, rotation_loss, turned, turns
from pretrain.optimizers import learning_rate
from tests.pretrain.batches import batch
from tests.pretrain.learning import losses

CPU = torch.device("cpu")


@pytest.fixture
def rotnet(small: Callable[..., Any]) -> Rotnet:
    return build(small("rotnet"))


def test_turns_are_of_the_image_as_an_eye_sees_it() -> None:
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).view(2, 3, 4, 4)
    found = turned(images)
    assert found.shape == (8, 3, 4, 4)
    # A quarter turn is a flip upside down of the transposed image.
    assert torch.equal(found[2:4], images.transpose(2, 3).flip(2))
    assert torch.equal(found[4:6], images.flip((2, 3)))
    assert torch.equal(found[6:8], images.flip(2).transpose(2, 3))


def test_all_four_turns_of_an_image_are_in_one_batch(rotnet: Rotnet) -> None:
    images = rotnet.views(batch(3), CPU)["images"]
    assert images.shape == (12, 3, 32, 32)
    for image in range(3):
        for turn in range(4):
            back = images[turn * 3 + image].rot90(-turn, (1, 2))
            assert torch.equal(back, images[image])
    assert turns(torch.zeros(12, 4)).tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


def test_the_loss_is_the_direct_formula() -> None:
    logits = np.random.default_rng(0).normal(size=(8, 4))
    terms = [
        -(logits[row, row // 2] - np.log(np.exp(logits[row]).sum())) for row in range(len(logits))
    ]
    assert rotation_loss(torch.from_numpy(logits)).item() == pytest.approx(np.mean(terms), rel=1e-9)


def test_the_rate_falls_at_the_published_epochs(small: Callable[..., Any]) -> None:
    settings = small("rotnet", steps=200, warmup=0.0, lr=0.1)
    assert (settings.optimizer, settings.nesterov, settings.momentum) == ("sgd", True, 0.9)
    rates = [learning_rate(settings, step) for step in (0, 59, 60, 119, 120, 159, 160, 199)]
    expected = [0.1, 0.1, 0.02, 0.02, 0.004, 0.004, 0.0008, 0.0008]
    assert rates == pytest.approx(expected)


def test_another_optimizer_or_schedule_needs_no_further_change(small: Callable[..., Any]) -> None:
    settings = small("rotnet", optimizer="adamw", schedule="cosine")
    assert (settings.nesterov, settings.milestones) == (False, ())


def test_thirty_steps_learn_which_way_up(small: Callable[..., Any]) -> None:
    rotnet = build(small("rotnet"))
    ramp = batch(4)
    ramp.images[:] = np.linspace(0, 255, 48, dtype=np.uint8)[None, :, None, None]
    views = rotnet.views(ramp, CPU)
    found = losses(rotnet, views)
    assert found[0] == pytest.approx(np.log(4), abs=0.3)
    assert found[-1] < 0.5
    assert all(value.grad is not None for value in rotnet.trained())
