import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.crops import local_size
from pretrain.heads import Head
from pretrain.objectives.dino import Dino, build, dino_loss
from tests.pretrain.batches import batch

CPU = torch.device("cpu")


@pytest.fixture
def dino(small: Callable[..., Any]) -> Dino:
    return build(small("dino"))


def test_the_loss_is_the_direct_formula() -> None:
    rng = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(n, 3, 5, generator=rng) for n in (4, 2))
    center = torch.randn(5, generator=rng)
    loss = dino_loss(student, teacher, center, 0.05, 0.1)
    terms = []
    for target in range(2):
        for view in range(4):
            if view == target:
                continue
            for row in range(3):
                wanted = np.exp(((teacher[target, row] - center) / 0.05).double().numpy())
                given = (student[view, row] / 0.1).double().numpy()
                log = given - np.log(np.exp(given).sum())
                terms.append(-(wanted / wanted.sum() * log).sum())
    assert len(terms) == (2 * 4 - 2) * 3
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_the_last_layer_is_of_unit_directions() -> None:
    head = Head(6, 8, 4, 9)
    output = head(torch.randn(20, 6))
    assert output.shape == (20, 9)
    assert output.abs().max() <= 1 + 1e-6  # a cosine
    with torch.no_grad():
        head.last.weight *= 7
    assert torch.equal(head(torch.ones(1, 6)).abs() <= 1 + 1e-6, torch.ones(1, 9, dtype=torch.bool))


def test_teacher_and_student_start_alike_and_the_teacher_follows_slowly(dino: Dino) -> None:
    for mean, fast in zip(dino.teacher.parameters(), dino.student.parameters(), strict=True):
        assert torch.equal(mean, fast)
        assert not mean.requires_grad
    before = dino.teacher.pos_embed.clone()
    with torch.no_grad():
        dino.student.pos_embed += 1
    dino.after_update(0.0)
    assert torch.allclose(dino.teacher.pos_embed - before, torch.tensor(1 - 0.996), atol=1e-6)
    before = dino.teacher.pos_embed.clone()
    dino.after_update(1.0)  # momentum 1: the teacher rests
    assert torch.equal(dino.teacher.pos_embed, before)


def test_views_and_their_sizes(dino: Dino) -> None:
    found = dino.views(batch(4), CPU)
    assert found["global"].shape == (8, 3, 32, 32)
    assert found["local"].shape == (8, 3, 16, 16)
    assert not torch.equal(found["global"][:4], found["global"][4:])


def test_local_crops_are_whole_patches(small: Callable[..., Any]) -> None:
    assert local_size(small("dino", image_size=48)) == 24
    assert local_size(small("dino", image_size=40)) == 16
    assert local_size(small("dino", options={"local_size": 8})) == 8


def test_no_local_crops(small: Callable[..., Any]) -> None:
    dino = build(small("dino", options={"local_crops": 0}))
    found = dino.views(batch(4), CPU)
    assert found["local"] is None
    assert torch.isfinite(dino(found, 0.5)[0])


def test_the_centre_is_a_running_mean_of_the_teacher(dino: Dino) -> None:
    found = dino.views(batch(4), CPU)
    with torch.no_grad():
        mean = dino.teacher_head(dino.teacher(found["global"])).mean(0)
    dino(found, 0.0)
    assert torch.allclose(dino.center, 0.1 * mean, atol=1e-6)
    dino(found, 0.0)
    assert torch.allclose(dino.center, 0.19 * mean, atol=1e-6)


def test_only_the_student_learns_and_each_gradient_is_clipped_alone(dino: Dino) -> None:
    loss, figures = dino(dino.views(batch(4), CPU), 0.5)
    (loss * 1e4).backward()
    assert all(p.grad is None for p in dino.teacher.parameters())
    small = {id(p): p.grad.clone() for p in dino.trained() if p.grad.norm() < 3}
    dino.before_update(0.5)
    norms = [p.grad.norm().item() for p in dino.trained()]
    assert max(norms) == pytest.approx(3.0, abs=1e-3)
    assert sum(norm > 2.99 for norm in norms) > 1
    for parameter in dino.trained():
        if id(parameter) in small:
            assert torch.equal(parameter.grad, small[id(parameter)])
    assert 0 <= figures["entropy"] <= 1 + 1e-5
    assert 0 <= figures["usage"] <= 1 + 1e-5


def test_the_last_layer_rests_at_first(dino: Dino) -> None:
    for progress, rests in ((0.0, True), (0.04, True), (0.05, False)):
        dino.zero_grad()
        dino(dino.views(batch(4), CPU), progress)[0].backward()
        dino.before_update(progress)
        assert (dino.student_head.last.weight.grad is None) == rests


def test_schedules(dino: Dino) -> None:
    assert dino._teacher_temperature(0.0) == pytest.approx(0.04)
    assert dino._teacher_temperature(0.15) == pytest.approx(0.055)
    assert dino._teacher_temperature(0.9) == pytest.approx(0.07)
    assert dino.weight_decay(0.0) == pytest.approx(0.04)
    assert dino.weight_decay(0.5) == pytest.approx(0.22)
    assert dino.weight_decay(1 - 1e-9) == pytest.approx(0.4)


def test_collapse_shows_in_the_figures(dino: Dino) -> None:
    alike = torch.zeros(2, 4, 32)
    alike[..., 3] = 10.0
    figures = dino._figures(alike, 0.04)
    assert figures["usage"] < 0.01
    uniform = dino._figures(torch.zeros(2, 4, 32), 0.04)
    assert uniform["entropy"] == pytest.approx(1.0, abs=1e-4)
    spread = dino._figures(10 * torch.eye(8).view(2, 4, 8).repeat(1, 1, 4), 0.04)
    assert spread["usage"] > 0.9
    assert spread["entropy"] < math.log(4) / math.log(32) + 0.01


def test_convolutional_networks_take_it_too(small: Callable[..., Any]) -> None:
    dino = build(small("dino", model="test_resnet", model_kwargs={}))
    loss, _ = dino(dino.views(batch(4), CPU), 0.5)
    loss.backward()
    assert torch.isfinite(loss)
