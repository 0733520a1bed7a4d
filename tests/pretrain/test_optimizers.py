import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from infra.errors import SluiceError
from pretrain import objectives
from pretrain.objectives.base import Objective
from pretrain.optimizers import learning_rate, make_optimizer, parameter_groups, set_step


def test_the_learning_rate_rises_then_falls(small: Callable[..., Any]) -> None:
    settings = small("mae", steps=100, warmup=0.1, lr=1.0, min_lr=0.2)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.6)
    assert rates[99] == pytest.approx(0.2 + 0.4 * (1 + math.cos(math.pi * 89 / 90)))
    assert learning_rate(small("mae", steps=1), 0) > 0


def test_vectors_do_not_decay(small: Callable[..., Any]) -> None:
    objective = objectives.build(small("clip"))
    decays, plain = make_optimizer(objective, small("clip")).param_groups
    assert {p.ndim >= 2 for p in decays["params"]} == {True}
    assert any(p is objective.model.logit_scale for p in plain["params"])
    assert plain["weight_decay"] == 0.0
    assert len(decays["params"]) + len(plain["params"]) == len(objective.trained())


def test_a_constant_rate_cools_down_at_the_end(small: Callable[..., Any]) -> None:
    changes = {"steps": 100, "warmup": 0.1, "lr": 1.0, "min_lr": 0.2, "schedule": "constant"}
    settings = small("mae", cooldown=0.2, **changes)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[9] == rates[10] == rates[80] == 1.0
    assert rates[90] == pytest.approx(0.6)
    assert rates[99] == pytest.approx(0.2 + 0.8 / 20)
    assert learning_rate(small("mae", **changes), 99) == 1.0


def test_a_rate_falls_at_its_milestones(small: Callable[..., Any]) -> None:
    marks = {"schedule": "steps", "milestones": (0.3, 0.6), "gamma": 0.1}
    settings = small("mae", steps=100, warmup=0.1, lr=1.0, min_lr=0.05, **marks)
    rates = [learning_rate(settings, step) for step in (0, 9, 10, 29, 30, 59, 60, 99)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 1.0, 0.1, 0.1, 0.05, 0.05])
    assert settings.identity()["milestones"] == [0.3, 0.6]
    assert "milestones" not in small("mae").identity()


def test_what_the_network_declares_does_not_decay_if_asked(small: Callable[..., Any]) -> None:
    names: dict[str, set[str]] = {}
    for rule in ("vectors", "declared"):
        settings = small("dino", no_decay=rule)
        objective = objectives.build(settings)
        of = {id(value): name for name, value in objective.named_parameters()}
        plain = parameter_groups(objective, settings)[1]
        names[rule] = {of[id(parameter)] for parameter in plain["params"]}
    assert names["declared"] - names["vectors"] == {"student.pos_embed", "student.cls_token"}


def test_each_layer_learns_slower_than_the_one_above(small: Callable[..., Any]) -> None:
    settings = small("dino", layer_decay=0.5)
    objective = objectives.build(settings)
    optimizer = make_optimizer(objective, settings)
    set_step(optimizer, 0.1, 0.3)
    of = {id(value): name for name, value in objective.named_parameters()}
    groups = {
        of[id(parameter)]: group
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert len(groups) == len(objective.trained())
    for name, share in {
        "student.patch_embed.proj.weight": 0.25,
        "student.cls_token": 0.25,
        "student.blocks.0.mlp.fc1.weight": 0.5,
        "student.blocks.0.norm1.bias": 0.5,
        "student.norm.weight": 0.5,
        "student_head.last.weight": 1.0,
    }.items():
        assert groups[name]["lr"] == pytest.approx(0.1 * share), name
        assert groups[name]["weight_decay"] == (0.0 if "norm" in name else 0.3)


def test_layers_that_are_not_known_are_said_so(small: Callable[..., Any]) -> None:
    settings = small("clip", layer_decay=0.5)
    with pytest.raises(SluiceError, match="does not say which layer"):
        make_optimizer(objectives.build(settings), settings)


def test_an_objective_may_slow_some_parameters(
    small: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Objective, "lr_scale", lambda self, name, parameter: 0.1 if parameter.ndim < 2 else 1.0
    )
    settings = small("mae")
    groups = parameter_groups(objectives.build(settings), settings)
    assert [(group["decays"], group["scale"]) for group in groups] == [(True, 1.0), (False, 0.1)]


class Plain(nn.Module):
    """An objective of one matrix and one vector, as far as an optimizer can tell."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))
        self.bias = nn.Parameter(torch.tensor([2.0]))

    trained = Objective.trained
    lr_scale = Objective.lr_scale


def stepped(settings: Any, decay: float) -> Plain:
    objective: Any = Plain()
    optimizer = make_optimizer(objective, settings)
    objective.weight.grad = torch.tensor([[0.6, 0.8]])
    objective.bias.grad = torch.tensor([0.5])
    set_step(optimizer, 0.1, decay)
    optimizer.step()
    return objective


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_first_steps_are_the_published_formulas(small: Callable[..., Any], decay: float) -> None:
    weight, gradient = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.6, 0.8]])
    whole = gradient + decay * weight
    adam = torch.ones(1, 2)  # the first moments over the root of the second, both unbiased
    lamb = adam + decay * weight
    expected = {
        "adamw": weight * (1 - 0.1 * decay) - 0.1 * adam,
        "lamb": weight - 0.1 * lamb * 5 / lamb.norm(),
        "lars": weight - 0.1 * 0.001 * 5 / (1 + decay * 5) * whole,
        "sgd": weight - 0.1 * whole,
    }
    for name, value in expected.items():
        found = stepped(small("mae", optimizer=name), decay)
        assert torch.allclose(found.weight, value, atol=1e-5), name
        small_step = 0.1 * (1.0 if name in ("adamw", "lamb") else 0.5)
        assert found.bias.item() == pytest.approx(2.0 - small_step, abs=1e-5), name
