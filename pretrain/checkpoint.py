"""Checkpoints of an unfinished run: what they hold, and how a run is put back where one stands.

They hold the objective's weights and buffers, whatever the optimizer keeps, the average of the
weights if there is one, the streams' cursors, the metrics so far and the digest of the run; every
random number is keyed by position, so there is no generator state to keep.

Of a model that lies in pieces in several processes each writes its own rows, and takes its own, of
whatever number of pieces; no process ever holds the whole. How they are written is in
`pretrain.checkpoint_files`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from infra.errors import SluiceError
from pretrain import checkpoint_files as files
from pretrain.checkpoint_files import Found, Snapshot, Span, Writer
from pretrain.ranks import Ranks
from pretrain.sharding import is_cut, own_part, own_rows

ALONE = Ranks()


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
    """Write the run's checkpoint, and remove the one before. average: further tensors, by name."""
    writer = Writer(url)
    writer.write(snapshot(digest, saved, model, optimizer, average))
    writer.wait()
    writer.close()


@torch.no_grad()
def snapshot(
    digest: str,
    saved: Saved,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor] | None = None,
    ranks: Ranks = ALONE,
    loss: float = math.nan,
) -> Snapshot:
    """A copy of where a run stands, of this process's part of it; see `save_checkpoint`.

    ranks: the processes in which the model lies in pieces. loss: of the steps since the last one.
    """
    values = {f"model/{name}": value for name, value in model.state_dict().items()}
    values |= {f"average/{name}": value for name, value in (average or {}).items()}
    values |= _optimizer_values(model, optimizer)
    tensors = {name: each for name, each in values.items() if isinstance(each, Tensor)}
    record = {
        "digest": digest,
        **asdict(saved),
        "numbers": {name: each for name, each in values.items() if isinstance(each, int | float)},
        "cut": {name: list(value.shape) for name, value in tensors.items() if is_cut(value)},
    }
    if math.isfinite(loss):
        record["loss"] = loss
    own = {
        name: own_part(value.detach()).to("cpu", copy=True).contiguous()
        for name, value in tensors.items()
        if ranks.first or is_cut(value)
    }
    return Snapshot(own, record, ranks.rank, ranks.count)


@torch.no_grad()
def load_checkpoint(
    url: str,
    digest: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor] | None = None,
    ranks: Ranks = ALONE,
) -> Saved | None:
    """Put a run back where its last checkpoint stands; None where there is none that fits.

    A damaged checkpoint, or one of another run, is as good as none: starting over gives the
    same bytes. ranks: all processes of the run, which ask together and take the same one.
    """
    for found in ranks.told(files.found(url) if ranks.first else None):
        if found.record.get("digest") != digest:
            continue
        tensors = _read(found, model, average)
        if ranks.any(np.array([tensors is None]))[0] or tensors is None:
            continue
        own = model.state_dict()
        for name, value in _under("model", tensors).items():
            own_part(own[name]).copy_(value)
        for name, value in _under("average", tensors).items():
            own_part((average or {})[name]).copy_(value)
        _load_optimizer(model, optimizer, {**tensors, **found.record["numbers"]})
        return _saved(found)
    return None


def _read(
    found: Found, model: nn.Module, average: Mapping[str, Tensor] | None
) -> dict[str, Tensor] | None:
    """This process's part of all tensors; None where a file is damaged, or another model's."""
    parameters, own = dict(model.named_parameters()), model.state_dict()

    def wanted(path: str, shape: Sequence[int]) -> Span:
        kind, _, name = path.partition("/")
        held = {"model": own, "average": average or {}}.get(kind)
        like = held.get(name) if held is not None else parameters.get(name.rpartition("/")[0])
        # Of what an optimizer keeps, that which has a parameter's shape lies as it does.
        if like is None or list(like.shape) != list(shape):
            return 0, shape[0]
        return own_rows(like)

    try:
        tensors = found.tensors(wanted)
    except files.DAMAGE:
        return None
    fits = {name: own_part(value).shape for name, value in own.items()}
    there = {name: value.shape for name, value in _under("model", tensors).items()}
    return tensors if fits == there else None


def read_saved(url: str) -> Saved | None:
    """What the checkpoint of the run at `url` says of where it stands; None without one."""
    return next((_saved(found) for found in files.found(url)), None)


def read_weights(url: str, step: int) -> dict[str, Tensor]:
    """The objective's state as it was after `step`, put together; averages where they are kept.

    SluiceError where the run at `url` has no such checkpoint.
    """
    there = {int(found.record["step"]): found for found in files.found(url)}
    if step not in there:
        raise SluiceError(
            f"{url} has no checkpoint of step {step}, but of {sorted(there) or 'none'}",
            "take one of these; runs with keep_checkpoints above 1 keep theirs",
        )
    tensors = there[step].tensors(lambda _, shape: (0, shape[0]))
    return {**_under("model", tensors), **_under("average", tensors)}


def _saved(found: Found) -> Saved:
    return Saved(**{name: found.record[name] for name in Saved.__dataclass_fields__})


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
        if isinstance(value, Tensor) and value.ndim and value.shape == own_part(parameter).shape:
            # The fused optimizer walks through memory: moments must lie as weights do.
            own = torch.empty_like(parameter, dtype=value.dtype)
            own_part(own).copy_(value)
            value = own
        state.setdefault(places[name], {})[kept] = value
    groups = optimizer.state_dict()["param_groups"]
    for path, value in _under("group", values).items():
        index, _, kept = path.partition("/")
        # Groups of scalars stand behind the others, and are not in every process's list.
        if int(index) < len(groups):
            groups[int(index)][kept] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})
