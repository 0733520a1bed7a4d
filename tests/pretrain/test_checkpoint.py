import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.optim import Lamb, Lars, Lion
from torch import nn

from infra import filesystem
from infra.errors import SluiceError
from pretrain.checkpoint import Saved, load_checkpoint, read_saved, save_checkpoint, snapshot
from pretrain.checkpoint_files import KEPT, Snapshot, Writer, found
from pretrain.job import WORK
from pretrain.sharding import share

FILES = "checkpoint-000000007-0-of-1.safetensors", "checkpoint-000000007.json"
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
    saved = load_checkpoint(str(tmp_path), "d", model, optimizer)
    assert saved is not None and saved.step == 2
    assert names(tmp_path, WORK) == [
        "checkpoint-000000002-0-of-1.safetensors",
        "checkpoint-000000002.json",
    ]


def test_none_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(str(tmp_path), "digest", *fresh(0)) is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_damaged_one_counts_for_nothing(tmp_path: Path, name: str, keep: int) -> None:
    model, optimizer = fresh(0)
    save_checkpoint(str(tmp_path), "digest", SAVED, model, optimizer)
    file = tmp_path / WORK / name
    file.write_bytes(file.read_bytes()[:keep])
    assert read_saved(str(tmp_path)) is None
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


def names(folder: Path, kind: str = KEPT) -> list[str]:
    return sorted(path.name for path in (folder / kind).iterdir())


def steps_of(folder: Path) -> list[int]:
    return [int(name[11:20]) for name in names(folder) if name.endswith(".json")]


def cut(copied: Snapshot, pieces: int) -> list[Snapshot]:
    """As the processes would copy it whose model lies in so many pieces; matrices alone are cut."""
    shapes = {name: list(v.shape) for name, v in copied.tensors.items() if v.ndim == 2}
    found: list[Snapshot] = []
    for piece in range(pieces):
        tensors = {
            name: value[slice(*share(len(value), pieces, piece))].contiguous()
            if name in shapes
            else value
            for name, value in copied.tensors.items()
            if name in shapes or piece == 0
        }
        found.append(Snapshot(tensors, {**copied.record, "cut": shapes}, piece, pieces))
    return found


def write(folder: Path, copied: Snapshot, pieces: int, keep: int = 1) -> None:
    """All pieces of a checkpoint, each by a process of its own."""
    meeting, told = threading.Barrier(pieces), dict[int, Any]()

    def each(value: Any) -> list[Any]:
        told[threading.get_ident()] = value
        meeting.wait(5)
        return sorted(filter(None, told.values()), key=lambda part: part.path)

    writers = [Writer(str(folder), keep, each) for _ in range(pieces)]
    for writer, own in zip(writers, cut(copied, pieces), strict=True):
        writer.write(own)
    for writer in writers:
        writer.wait()
        writer.close()


@pytest.mark.parametrize("pieces", [2, 3, 5])
def test_pieces_are_put_together(tmp_path: Path, pieces: int) -> None:
    """Four rows in as many pieces, of which the last may have none."""
    model, optimizer = fresh(0)
    steps(model, optimizer, 3)
    write(tmp_path, snapshot("d", SAVED, model, optimizer), pieces)
    assert len(names(tmp_path, WORK)) == pieces + 1
    other, its_optimizer = fresh(1)
    assert load_checkpoint(str(tmp_path), "d", other, its_optimizer) == SAVED
    for one, two in ((model, optimizer), (other, its_optimizer)):
        steps(one, two, 2)
    for one, two in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("span", [(0, 4), (1, 3), (2, 3), (3, 4), (4, 4)])
def test_a_process_takes_its_rows_of_any_pieces(tmp_path: Path, span: tuple[int, int]) -> None:
    model, optimizer = fresh(0)
    steps(model, optimizer, 1)
    copied = snapshot("d", SAVED, model, optimizer)
    write(tmp_path, copied, 3)
    (stands,) = found(str(tmp_path))
    tensors = stands.tensors(lambda name, shape: span if shape[0] == 4 else (0, shape[0]))
    assert tensors.keys() == copied.tensors.keys()
    for name, value in copied.tensors.items():
        wanted = value[slice(*span)] if value.ndim and len(value) == 4 else value
        assert torch.equal(tensors[name], wanted), name


@pytest.mark.parametrize("damage", ["gone", "short", "other"])
def test_without_a_whole_piece_the_one_before_counts(tmp_path: Path, damage: str) -> None:
    model, optimizer = fresh(0)
    steps(model, optimizer, 1)
    for step in (1, 2):
        write(tmp_path, snapshot("d", Saved(step, {}, []), model, optimizer), 2, keep=2)
    file = tmp_path / KEPT / "checkpoint-000000002-1-of-2.safetensors"
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(data[:-1] if damage == "short" else data[:-1] + bytes([data[-1] ^ 1]))
    other, its_optimizer = fresh(1)
    assert load_checkpoint(str(tmp_path), "d", other, its_optimizer) == Saved(1, {}, [])
    for one, two in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_pieces_without_a_record_are_no_checkpoint_and_go(tmp_path: Path) -> None:
    model, optimizer = fresh(0)
    write(tmp_path, snapshot("d", Saved(1, {}, []), model, optimizer), 2)
    (tmp_path / WORK / "checkpoint-000000001.json").unlink()  # it was killed before that
    assert read_saved(str(tmp_path)) is None
    write(tmp_path, snapshot("d", Saved(1, {}, []), model, optimizer), 1)
    assert names(tmp_path, WORK) == [
        "checkpoint-000000001-0-of-1.safetensors",
        "checkpoint-000000001.json",
    ]


def test_a_piece_that_another_process_cannot_write_is_told(tmp_path: Path) -> None:
    model, optimizer = fresh(0)
    whole = snapshot("d", SAVED, model, optimizer)
    writer = Writer(str(tmp_path), told=lambda value: [value, None])
    writer.write(cut(whole, 2)[0])
    with pytest.raises(SluiceError, match="by another process"):
        writer.wait()
    writer.close()
    assert read_saved(str(tmp_path)) is None


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
    assert steps_of(tmp_path) == [1, 3, 4]
    assert len(names(tmp_path)) == 6
    # Another process knows what the best is.
    again = Writer(str(tmp_path), keep=2)
    again.write(snapshot("d", Saved(5, {}, []), model, optimizer, loss=1.2))
    again.close()
    assert steps_of(tmp_path) == [1, 4, 5]
    assert read_saved(str(tmp_path)).step == 5  # type: ignore[union-attr]


def test_the_one_that_went_farthest_counts_whatever_is_kept(tmp_path: Path) -> None:
    model, optimizer = fresh(0)
    for step, keep in ((1, 1), (2, 3), (3, 1)):
        writer = Writer(str(tmp_path), keep)
        writer.write(snapshot("d", Saved(step, {}, []), model, optimizer))
        writer.close()
        assert load_checkpoint(str(tmp_path), "d", model, optimizer).step == step  # type: ignore[union-attr]
        assert len(names(tmp_path, KEPT if keep > 1 else WORK)) == 2
