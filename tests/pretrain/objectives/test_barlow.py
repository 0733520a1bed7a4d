from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed, nn

from pretrain.objectives.barlow import (
    Barlow,
    barlow_loss,
    build,
    cross_correlation,
    figures,
    projector,
)
from pretrain.optimizers import make_optimizer
from tests.pretrain.batches import batch
from tests.pretrain.learning import losses

CPU = torch.device("cpu")


def by_hand(first: np.ndarray, second: np.ndarray, weight: float) -> float:
    """The paper's sums, one pair of numbers after the other."""
    total = 0.0
    for i in range(first.shape[1]):
        for j in range(second.shape[1]):
            a, b = first[:, i], second[:, j]
            a = (a - a.mean()) / np.sqrt(((a - a.mean()) ** 2).mean() + 1e-5)
            b = (b - b.mean()) / np.sqrt(((b - b.mean()) ** 2).mean() + 1e-5)
            value = float(np.mean(a * b))
            total += (1 - value) ** 2 if i == j else weight * value**2
    return total


@pytest.fixture
def barlow(small: Callable[..., Any]) -> Barlow:
    return build(small("barlow"))


def test_the_loss_is_the_direct_formula() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(1, 2, (2, 7, 5))
    correlation = cross_correlation(torch.from_numpy(first), torch.from_numpy(second))
    found = barlow_loss(correlation, 0.0051).item()
    assert found == pytest.approx(by_hand(first, second, 0.0051), rel=1e-9)


def test_it_does_not_depend_on_the_scale_or_place_of_the_numbers() -> None:
    rng = np.random.default_rng(1)
    first, second = (torch.from_numpy(values) for values in rng.normal(0, 3, (2, 32, 4)))
    moved = cross_correlation(first * 5 + 3, second)
    assert torch.allclose(moved, cross_correlation(first, second), atol=1e-5)
    assert torch.allclose(cross_correlation(first, first).diagonal(), torch.ones(4).double())


def test_correlations_of_parts_do_not_make_that_of_the_whole() -> None:
    """Why the numbers of all processes are gathered: halves have means of their own."""
    rng = np.random.default_rng(2)
    first, second = (torch.from_numpy(values) for values in rng.normal(size=(2, 8, 3)))
    whole = cross_correlation(first, second)
    halves = cross_correlation(first[:4], second[:4]) + cross_correlation(first[4:], second[4:])
    assert not torch.allclose(halves / 2, whole, atol=0.05)


def test_figures_tell_collapse() -> None:
    same = torch.ones(16, 8) + 1e-6 * torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    apart = torch.randn(256, 8, generator=torch.Generator().manual_seed(1))
    assert figures(same, cross_correlation(same, same))["spread"] < 1e-3
    assert figures(apart, cross_correlation(apart, apart))["spread"] > 0.9
    told = figures(apart, cross_correlation(apart, apart))
    assert told["diagonal"] == pytest.approx(1, abs=1e-3) and told["redundancy"] < 0.1
    copies = apart[:, :1].expand(-1, 8)
    assert figures(copies, cross_correlation(copies, copies))["redundancy"] > 0.99


def test_the_second_view_alone_is_solarised_and_the_first_always_blurred(barlow: Barlow) -> None:
    assert barlow.options.blur == (1.0, 0.1) and barlow.options.solarize == (0.0, 0.2)
    found = barlow.views(batch(6), CPU)
    assert not torch.equal(found["0"], found["1"])
    again = barlow.views(batch(4, first=2), CPU)  # of other images, by the same numbers
    assert again["0"].shape == (4, 3, 32, 32)


def test_the_first_view_is_smoother(small: Callable[..., Any]) -> None:
    found = build(small("barlow", options={"projector": 8, "jitter": 0, "grey": 0})).views(
        batch(16), CPU
    )
    rough = {name: images.diff(dim=3).abs().mean() for name, images in found.items()}
    assert rough["0"] < rough["1"]


def test_lars_learns_norms_and_biases_at_their_own_rate(small: Callable[..., Any]) -> None:
    settings = small("barlow")
    assert settings.optimizer == "lars"
    groups = make_optimizer(build(settings), settings).param_groups
    assert [(group["scale"], group["decays"]) for group in groups] == [(1.0, True), (0.024, False)]
    plain = small("barlow", optimizer="adamw")
    assert {group["scale"] for group in make_optimizer(build(plain), plain).param_groups} == {1.0}


def test_a_step_learns_everything_and_thirty_lower_the_loss(small: Callable[..., Any]) -> None:
    barlow = build(small("barlow"))
    found = losses(barlow, barlow.views(batch(8), CPU), lr=0.02)
    assert all(value.grad is not None for value in barlow.trained())
    assert found[-1] < 0.7 * found[0]


def gradients(values: torch.Tensor, network: nn.Module) -> list[torch.Tensor]:
    from pretrain.distributed import gather

    first, second = network(values[:, 0]), network(values[:, 1])
    network.zero_grad()
    barlow_loss(cross_correlation(gather(first), gather(second)), 0.0051).backward()
    return [p.grad for p in network.parameters() if p.grad is not None]


def half(rank: int, file: str, values: torch.Tensor, state: dict[str, Any]) -> list[torch.Tensor]:
    """What DistributedDataParallel makes of the gradients of one of two processes."""
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    network = projector(6, 5).double()
    network.load_state_dict(state)
    found = gradients(values[4 * rank : 4 * rank + 4], network)
    for grad in found:
        distributed.all_reduce(grad)
    distributed.destroy_process_group()
    return [grad / 2 for grad in found]


@pytest.mark.long
def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    """The published code has half of it: its sum of correlations lets no gradient through."""
    torch.manual_seed(0)
    network = projector(6, 5).double()
    values = torch.randn(8, 2, 6, dtype=torch.float64)
    args = (str(tmp_path / "meet"), values, network.state_dict())
    other = torch.multiprocessing.get_context("spawn").Process(target=half, args=(1, *args))
    other.start()
    halves = half(0, *args)
    other.join()
    assert other.exitcode == 0
    for found, wanted in zip(halves, gradients(values, network), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)
