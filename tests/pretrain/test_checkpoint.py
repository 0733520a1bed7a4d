import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from timm.optim import Lamb, Lars, Lion
from torch import nn

from infra import filesystem
from pretrain.checkpoint import (
    BEST,
    FILE,
    Saved,
    Writer,
    load_checkpoint,
    read_saved,
    save_checkpoint,
    snapshot,
)
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


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / WORK).iterdir())


def test_one_that_counts_the_parameters_counts_for_nothing(tmp_path: Path) -> None:
    """As those of an older Sluice did."""
    model, optimizer = fresh(0)
    steps(model, optimizer, 1)
    copied = snapshot("digest", SAVED, model, optimizer)
    tensors = {
        name.replace("optimizer/0.weight", "optimizer/0"): value
        for name, value in copied.tensors.items()
    }
    data = save(tensors, metadata={"sluice": copied.record})
    filesystem.write_bytes(str(tmp_path), f"{WORK}/{FILE}", data)
    assert load_checkpoint(str(tmp_path), "digest", *fresh(1)) is None


def test_what_is_written_is_a_copy(tmp_path: Path) -> None:
    """The model learns on while its checkpoint is on the way."""
    model, optimizer = fresh(0)
    steps(model, optimizer, 1)
    before = [value.clone() for value in model.state_dict().values()]
    copied = snapshot("d", SAVED, model, optimizer)
    steps(model, optimizer, 2)
    writer = Writer(str(tmp_path))
    writer.write(copied)
    writer.wait()
    other, its_optimizer = fresh(1)
    assert load_checkpoint(str(tmp_path), "d", other, its_optimizer) == SAVED
    for one, two in zip(before, other.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    writer.close()


def test_the_next_one_waits_and_a_failure_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = fresh(0)
    copied = snapshot("d", SAVED, model, optimizer)
    gate, running = threading.Event(), threading.Event()

    def slow(*given: Any) -> None:
        running.set()
        gate.wait(5)
        raise OSError("disk full")

    monkeypatch.setattr(filesystem, "write_bytes", slow)
    writer = Writer(str(tmp_path))
    writer.write(copied)
    assert running.wait(5)  # it is on its way, and this thread is free
    threading.Timer(0.2, gate.set).start()
    with pytest.raises(OSError, match="disk full"):
        writer.write(copied)
    writer.wait()
    writer.close()


def test_the_last_ones_and_the_best_stay(tmp_path: Path) -> None:
    model, optimizer = fresh(0)
    writer = Writer(str(tmp_path), keep=2)
    for step, loss in enumerate([3.0, 1.0, 2.0, float("nan"), 1.5]):
        saved = Saved(step, {}, [])
        writer.write(snapshot("d", saved, model, optimizer, loss=loss))
    writer.close()
    numbered = [f"checkpoint-{step:09d}.safetensors" for step in (3, 4)]
    assert names(tmp_path) == [BEST, *numbered]
    best = tmp_path / "best" / WORK
    best.mkdir(parents=True)
    (best / FILE).write_bytes((tmp_path / WORK / BEST).read_bytes())
    assert load_checkpoint(str(tmp_path / "best"), "d", model, optimizer) == Saved(1, {}, [])
    # Another process knows what the best is.
    again = Writer(str(tmp_path), keep=2)
    again.write(snapshot("d", Saved(5, {}, []), model, optimizer, loss=1.2))
    again.close()
    assert read_saved(str(tmp_path / "best")).step == 1  # type: ignore[union-attr]
    assert load_checkpoint(str(tmp_path), "d", model, optimizer).step == 5  # type: ignore[union-attr]
    newest = tmp_path / WORK / "checkpoint-000000005.safetensors"
    newest.write_bytes(newest.read_bytes()[:50])
    assert load_checkpoint(str(tmp_path), "d", model, optimizer).step == 4  # type: ignore[union-attr]


def test_the_one_that_went_farthest_counts_whatever_is_kept(tmp_path: Path) -> None:
    model, optimizer = fresh(0)
    for step, keep in ((1, 1), (2, 3), (3, 1)):
        writer = Writer(str(tmp_path), keep)
        writer.write(snapshot("d", Saved(step, {}, []), model, optimizer))
        writer.close()
        assert load_checkpoint(str(tmp_path), "d", model, optimizer).step == step  # type: ignore[union-attr]
