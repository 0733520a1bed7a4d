"""Checkpoints of an unfinished run: one safetensors file, replaced whole, never a pickle.

It holds the objective's weights and buffers, the optimizer's moments, the streams' cursors, the
metrics so far and the digest of the run; every random number is keyed by position, so there is
no generator state to keep.
"""

import json
import tempfile
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
    url: str, digest: str, saved: Saved, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Replace the run's checkpoint in one step."""
    tensors: dict[str, Tensor] = {
        f"model/{name}": value for name, value in model.state_dict().items()
    }
    for index, moments in optimizer.state_dict()["state"].items():
        for name, value in moments.items():
            tensors[f"optimizer/{index}/{name}"] = torch.as_tensor(value)
    record = {"digest": digest, **asdict(saved)}
    data = save(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        metadata={"sluice": json.dumps(record)},
    )
    filesystem.write_bytes(url, f"{WORK}/{FILE}", data)


@torch.no_grad()
def load_checkpoint(
    url: str, digest: str, model: nn.Module, optimizer: torch.optim.Optimizer
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
    except (SafetensorError, KeyError, ValueError):
        return None
    if record.pop("digest") != digest:
        return None
    model.load_state_dict(
        {name[6:]: value for name, value in tensors.items() if name.startswith("model/")}
    )
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, index, kind = name.split("/")
            parameter = parameters[int(index)]
            if value.shape == parameter.shape:
                # The fused optimizer walks through memory: moments must lie as weights do.
                value = torch.empty_like(parameter).copy_(value)
            moments.setdefault(int(index), {})[kind] = value
    optimizer.load_state_dict(
        {"state": moments, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    return Saved(**record)


def _read(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with tempfile.NamedTemporaryFile() as file:  # safetensors gives metadata for files alone
        file.write(data)
        file.flush()
        with safe_open(file.name, "pt") as held:
            names = list(held.keys())
            return {n: held.get_tensor(n) for n in names}, json.loads(held.metadata()["sluice"])
