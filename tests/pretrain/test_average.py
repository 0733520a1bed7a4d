from collections.abc import Callable
from typing import Any

import pytest
import torch

from pretrain import objectives
from pretrain.average import Average


def test_the_average_is_the_direct_formula(small: Callable[..., Any]) -> None:
    objective = objectives.build(small("mae"))
    average = Average(objective, 0.4)
    weight, expected = objective.predict.bias, objective.predict.bias.detach().clone()
    for step, value in enumerate((1.0, 3.0, -2.0, 5.0, 8.0, 1.0)):
        with torch.no_grad():
            weight.fill_(value)
        average.update(step)
        keep = min(0.4, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * value
    assert torch.allclose(average.tensors["predict.bias"], expected)
    assert weight[0] == 1.0
    average.swap()
    assert torch.allclose(weight, expected)


def test_what_is_fixed_is_not_averaged_and_running_means_are(small: Callable[..., Any]) -> None:
    average = Average(objectives.build(small("mae")), 0.9)
    assert "model.pos_embed" not in average.tensors
    assert "positions" not in average.tensors
    settings = small("dino", model="test_resnet", model_kwargs={})
    objective = objectives.build(settings)
    means = {name for name in Average(objective, 0.9).tensors if name.startswith("student.")}
    assert any(name.endswith("running_mean") for name in means)
    assert not any(name.endswith("num_batches_tracked") for name in means)


@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_a_weight_at_rest_stays_to_the_last_bit(small: Callable[..., Any], keep: float) -> None:
    objective = objectives.build(small("mae"))
    average = Average(objective, keep)
    for step in range(5):
        average.update(step)
    state = objective.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in average.tensors.items())
