from pathlib import Path
from typing import Any

import pytest
import torch
from timm.optim import Lamb, Lars, Lion
from torch import nn

from pretrain.checkpoint import FILE, Saved, load_checkpoint, save_checkpoint
from pretrain.job import WORK

SAVED = Saved(7, {"positions": [3, 4], "bad": ["x:1"]}, ['{"step": 1}'], 1.5, 2.5)


def fresh(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for number in range(count):
        optimizer.zero_grad()
        model(torch.arange(15.0).view(5, 3) + number).square().mean().backward()
        optimizer.step()


def test_weights_moments_and_place_come_back(tmp_path: Path) -> None:
    model, optimizer = fresh(0)
    steps(model, optimizer, 3)
    save_checkpoint(str(tmp_path), "digest", SAVED, model, optimizer)
    other, its_optimizer = fresh(1)
    assert load_checkpoint(str(tmp_path), "digest", other, its_optimizer) == SAVED
    for one, two in ((model, optimizer), (other, its_optimizer)):
        steps(one, two, 2)
    for one, two in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Rprop, Lamb, Lars, Lion])
def test_any_optimizer_comes_back(kind: Any, tmp_path: Path) -> None:
    """Whatever it keeps of parameters and of groups, as tensors or as numbers."""
    pairs: list[tuple[nn.Module, torch.optim.Optimizer]] = []
    for seed in (0, 1):
        model, _ = fresh(seed)
        inertia = {"momentum": 0.9} if kind in (torch.optim.SGD, Lars) else {}
        pairs.append((model, kind(model.parameters(), lr=0.1, **inertia)))
    steps(*pairs[0], 3)
    save_checkpoint(str(tmp_path), "digest", SAVED, *pairs[0])
    assert load_checkpoint(str(tmp_path), "digest", *pairs[1]) == SAVED
    for pair in pairs:
        steps(*pair, 2)
    one, two = (pair[0].state_dict() for pair in pairs)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_average_comes_back(tmp_path: Path) -> None:
    model, optimizer = fresh(0)
    mean, other = {"0.weight": torch.rand(4, 3)}, {"0.weight": torch.zeros(4, 3)}
    save_checkpoint(str(tmp_path), "digest", SAVED, model, optimizer, mean)
    assert load_checkpoint(str(tmp_path), "digest", model, optimizer, other) == SAVED
    assert torch.equal(other["0.weight"], mean["0.weight"])


def test_the_last_one_stands_alone(tmp_path: Path) -> None:
    model, optimizer = fresh(0)
    for step in (1, 2):
        save_checkpoint(str(tmp_path), "d", Saved(step, {}, []), model, optimizer)
    found = load_checkpoint(str(tmp_path), "d", model, optimizer)
    assert found is not None
    assert found.step == 2
    assert [path.name for path in (tmp_path / WORK).iterdir()] == [FILE]


def test_none_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(str(tmp_path), "digest", *fresh(0)) is None


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_damaged_one_counts_for_nothing(tmp_path: Path, keep: int) -> None:
    model, optimizer = fresh(0)
    save_checkpoint(str(tmp_path), "digest", SAVED, model, optimizer)
    file = tmp_path / WORK / FILE
    file.write_bytes(file.read_bytes()[:keep])
    assert load_checkpoint(str(tmp_path), "digest", model, optimizer) is None


def test_one_of_another_run_counts_for_nothing(tmp_path: Path) -> None:
    model, optimizer = fresh(0)
    steps(model, optimizer, 1)
    save_checkpoint(str(tmp_path), "another", SAVED, model, optimizer)
    untouched, its_optimizer = fresh(1)
    before = [value.clone() for value in untouched.state_dict().values()]
    assert load_checkpoint(str(tmp_path), "digest", untouched, its_optimizer) is None
    for one, two in zip(before, untouched.state_dict().values(), strict=True):
        assert torch.equal(one, two)
