"""Checkpoints of an unfinished run: one safetensors file, replaced whole, never a pickle.

It holds the objective's weights and buffers, whatever the optimizer keeps, the average of the
weights if there is one, the streams' cursors, the metrics so far and the digest of the run; every
random number is keyed by position, so there is no generator state to keep.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from infra import filesystem
from infra.filesystem import join
from pretrain.job import WORK

FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class Saved:
    """Where a run stands: steps done, the stream's state, the lines of the metrics so far.

    seconds, cpu_seconds: spent on these steps; they reach the timing, never the run's files.
    """

    step: int
    stream: dict[str, Any]
    metrics: list[str]
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def save_checkpoint(
    url: str,
    digest: str,
    saved: Saved,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor] | None = None,
) -> None:
    """Replace the run's checkpoint in one step. average: further tensors, by name."""
    values = {f"model/{name}": value for name, value in model.state_dict().items()}
    values |= {f"average/{name}": value for name, value in (average or {}).items()}
    values |= _optimizer_values(optimizer)
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    record = {"digest": digest, **asdict(saved), "numbers": numbers}
    data = save(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        metadata={"sluice": json.dumps(record)},
    )
    filesystem.write_bytes(url, f"{WORK}/{FILE}", data)


def _optimizer_values(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What it keeps of each parameter, and of each group of them, by a name of three parts."""
    state = optimizer.state_dict()
    kept = {"optimizer": state["state"].items(), "group": enumerate(state["param_groups"])}
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
    """Put a run back where its checkpoint stands; None where there is none that fits.

    A damaged checkpoint, or one of another run, is as good as none: starting over gives the
    same bytes.
    """
    file = join(url, WORK, FILE)
    if not filesystem.exists(file):
        return None
    try:
        tensors, record = _read(filesystem.read_bytes(file))
        numbers = record.pop("numbers")
    except (SafetensorError, KeyError, ValueError):
        return None
    if record.pop("digest") != digest:
        return None
    model.load_state_dict(_under("model", tensors))
    for name, value in _under("average", tensors).items():
        (average or {})[name].copy_(value)
    _load_optimizer(optimizer, {**tensors, **numbers})
    return Saved(**record)


def _under(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values whose names start with "<kind>/", by the rest of their names."""
    start = f"{kind}/"
    return {
        name.removeprefix(start): value for name, value in values.items() if name.startswith(start)
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, values: Mapping[str, Any]) -> None:
    """Give it what `_optimizer_values` gave; it has the same groups of parameters."""
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in _under("optimizer", values).items():
        index, kept = name.split("/")
        parameter = parameters[int(index)]
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            # The fused optimizer walks through memory: moments must lie as weights do.
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[kept] = value
    groups = optimizer.state_dict()["param_groups"]
    for name, value in _under("group", values).items():
        index, kept = name.split("/")
        groups[int(index)][kept] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _read(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with tempfile.NamedTemporaryFile() as file:  # safetensors gives metadata for files alone
        file.write(data)
        file.flush()
        with safe_open(file.name, "pt") as held:
            names = list(held.keys())
            return {n: held.get_tensor(n) for n in names}, json.loads(held.metadata()["sluice"])
