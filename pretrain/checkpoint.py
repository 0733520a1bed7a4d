"""Checkpoints of an unfinished run: one safetensors file, replaced whole, never a pickle.

It holds the objective's weights and buffers, whatever the optimizer keeps, the average of the
weights if there is one, the streams' cursors, the metrics so far and the digest of the run; every
random number is keyed by position, so there is no generator state to keep.

A model that lies in pieces in several processes is gathered, tensor by tensor, in the memory of the
first one: its checkpoint is like any other, for any number of processes.
"""

import contextlib
import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from infra import filesystem
from infra.filesystem import join
from pretrain.job import WORK
from pretrain.sharding import cut_like, joined

FILE = "checkpoint.safetensors"
BEST = "best.safetensors"  # of the lowest loss
NUMBERED = re.compile(r"checkpoint-(\d{9,})\.safetensors")  # of a step, where several are kept


@dataclass(frozen=True)
class Saved:
    """Where a run stands: steps done, the stream's state, the lines of the metrics so far.

    seconds, cpu_seconds: spent on these steps; they reach the timing, never the run's files.
    order: what the order of samples depends on (see `pretrain.seen`).
    """

    step: int
    stream: dict[str, Any]
    metrics: list[str]
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    order: Mapping[str, Any] = field(default_factory=dict[str, Any])


def save_checkpoint(
    url: str,
    digest: str,
    saved: Saved,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor] | None = None,
) -> None:
    """Replace the run's checkpoint in one step. average: further tensors, by name."""
    copied = snapshot(digest, saved, model, optimizer, average)
    filesystem.write_bytes(url, f"{WORK}/{FILE}", copied.data())


@dataclass(frozen=True)
class Snapshot:
    """A copy of all that a checkpoint holds, in memory. loss: of the steps since the last one."""

    tensors: Mapping[str, Tensor]
    record: str
    step: int
    loss: float

    def data(self) -> bytes:
        return save(dict(self.tensors), metadata={"sluice": self.record})


@torch.no_grad()
def snapshot(
    digest: str,
    saved: Saved,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor] | None = None,
    first: bool = True,
    loss: float = math.nan,
) -> Snapshot:
    """A copy of where a run stands; see `save_checkpoint`.

    Where the model is cut into pieces all processes ask together, and the `first` keeps the copy.
    """
    values = {f"model/{name}": value for name, value in model.state_dict().items()}
    values |= {f"average/{name}": value for name, value in (average or {}).items()}
    values |= _optimizer_values(model, optimizer)
    tensors: dict[str, Tensor] = {}
    for name, value in values.items():
        if isinstance(value, Tensor):
            whole = joined(value.detach())
            if first:
                tensors[name] = whole.to("cpu", copy=True).contiguous()
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    record = {"digest": digest, **asdict(saved), "numbers": numbers}
    if math.isfinite(loss):
        record["loss"] = loss
    return Snapshot(tensors, json.dumps(record), saved.step, loss)


class Writer:
    """Writes the checkpoints of the run at `url` on a thread of its own, one after the other.

    keep: how many of the last ones stay; above 1 the one of the lowest loss stays, too. What failed
    is raised by the next call.
    """

    def __init__(self, url: str, keep: int = 1) -> None:
        self.url, self.keep = url, keep
        self._threads = ThreadPoolExecutor(1, "checkpoint")
        self._last: Future[None] | None = None
        self._best: float | None = None

    def write(self, copied: Snapshot) -> None:
        """Begin to write a checkpoint, once the last one is written."""
        self.wait()
        self._last = self._threads.submit(self._write, copied)

    def wait(self) -> None:
        """Until all is written."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def close(self) -> None:
        self._threads.shutdown()

    def _write(self, copied: Snapshot) -> None:
        data = copied.data()
        if self.keep == 1:
            filesystem.write_bytes(self.url, f"{WORK}/{FILE}", data)
            return
        name = f"checkpoint-{copied.step:09d}.safetensors"
        filesystem.write_bytes(self.url, f"{WORK}/{name}", data)
        if self._best is None:
            self._best = _loss(join(self.url, WORK, BEST))
        if copied.loss < self._best:
            filesystem.write_bytes(self.url, f"{WORK}/{BEST}", data)
            self._best = copied.loss
        for old in _numbered(self.url)[self.keep :]:
            files, path = filesystem.resolve(join(self.url, WORK, old))
            files.rm_file(path)


def _loss(file: str) -> float:
    """That of a checkpoint; infinite where there is none to compare with."""
    with contextlib.suppress(SafetensorError, KeyError, ValueError, FileNotFoundError):
        return float(_read(filesystem.read_bytes(file))[1]["loss"])
    return math.inf


def _numbered(url: str) -> list[str]:
    """Names of the checkpoints that are kept by number, the newest first."""
    files, path = filesystem.resolve(join(url, WORK))
    if not filesystem.is_folder(join(url, WORK)):
        return []
    names = [str(entry).rsplit("/", 1)[-1] for entry in files.ls(path, detail=False)]
    return sorted((name for name in names if NUMBERED.fullmatch(name)), reverse=True)


def _found(url: str) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
    """The checkpoints that can be read; the one that went farthest first."""
    held: list[tuple[dict[str, Tensor], dict[str, Any]]] = []
    for names in ([FILE, *_numbered(url)[:1]], _numbered(url)[1:]):
        for name in names:
            file = join(url, WORK, name)
            if filesystem.exists(file):
                with contextlib.suppress(SafetensorError, KeyError, ValueError):
                    held.append(_read(filesystem.read_bytes(file)))
        yield from sorted(held, key=lambda found: -int(found[1].get("step", 0)))
        held.clear()


def _names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Of the parameters, in the order in which the optimizer counts them."""
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    return [own[id(each)] for group in optimizer.param_groups for each in group["params"]]


def _optimizer_values(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What it keeps of each parameter, and of each group of them, by a name of three parts.

    By the parameters' names: their order depends on whether the model lies in pieces.
    """
    state, names = optimizer.state_dict(), _names(model, optimizer)
    kept: dict[str, Any] = {
        "optimizer": [(names[index], entry) for index, entry in state["state"].items()],
        "group": enumerate(state["param_groups"]),
    }
    return {
        f"{kind}/{index}/{name}": value
        for kind, entries in kept.items()
        for index, entry in entries
        for name, value in entry.items()
    }


@torch.no_grad()
def load_checkpoint(
    url: str,
    digest: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor] | None = None,
) -> Saved | None:
    """Put a run back where its last checkpoint stands; None where there is none that fits.

    A damaged checkpoint, or one of another run, is as good as none: starting over gives the
    same bytes.
    """
    for tensors, record in _found(url):
        if record.pop("digest", None) != digest:
            continue
        numbers = record.pop("numbers", {})
        record.pop("loss", None)
        kept = {path.rpartition("/")[0] for path in _under("optimizer", tensors)}
        if not kept <= dict(model.named_parameters()).keys():
            continue  # of an older Sluice, which counted the parameters
        own = model.state_dict()
        state = {
            name: cut_like(value, own[name]) if name in own else value
            for name, value in _under("model", tensors).items()
        }
        model.load_state_dict(state)
        for name, value in _under("average", tensors).items():
            mean = (average or {})[name]
            mean.copy_(cut_like(value, mean))
        _load_optimizer(model, optimizer, {**tensors, **numbers})
        return Saved(**record)
    return None


def read_saved(url: str) -> Saved | None:
    """What the checkpoint of the run at `url` says of where it stands; None without one."""
    for _, record in _found(url):
        return Saved(**{name: record[name] for name in Saved.__dataclass_fields__})
    return None


def _under(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values whose names start with "<kind>/", by the rest of their names."""
    start = f"{kind}/"
    return {
        name.removeprefix(start): value for name, value in values.items() if name.startswith(start)
    }


def _load_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, values: Mapping[str, Any]
) -> None:
    """Give it what `_optimizer_values` gave."""
    names, parameters = _names(model, optimizer), dict(model.named_parameters())
    places = {name: place for place, name in enumerate(names)}
    state: dict[int, dict[str, Any]] = {}
    for path, value in _under("optimizer", values).items():
        name, _, kept = path.rpartition("/")
        parameter = parameters[name]
        if isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim:
            # The fused optimizer walks through memory: moments must lie as weights do.
            own = torch.empty_like(parameter, dtype=value.dtype)
            value = own.copy_(cut_like(value, parameter))
        state.setdefault(places[name], {})[kept] = value
    groups = optimizer.state_dict()["param_groups"]
    for path, value in _under("group", values).items():
        index, _, kept = path.partition("/")
        # Groups of scalars stand behind the others, and are not in every process's list.
        if int(index) < len(groups):
            groups[int(index)][kept] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _read(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with tempfile.NamedTemporaryFile() as file:  # safetensors gives metadata for files alone
        file.write(data)
        file.flush()
        with safe_open(file.name, "pt") as held:
            names = list(held.keys())
            return {n: held.get_tensor(n) for n in names}, json.loads(held.metadata()["sluice"])
