"""One model spread over the processes of a run: FSDP2 (Zhao et al. 2023, arXiv:2304.11277).

Weights, gradients and what the optimizer keeps lie in pieces, along their first dimension; the
weights of a block are put together while it computes. Scalars, such as a temperature, stay whole
in every process: there is nothing to cut.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn


def shard(objective: nn.Module, device: torch.device) -> None:
    """Cut all weights of `objective` but scalars; each block is put together on its own."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for parameter in objective.parameters():  # only such can be cut
        parameter.data = parameter.data.contiguous()
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for block in [] if getattr(objective, "opens_blocks", False) else blocks(objective):
        if not any(parameter.ndim == 0 for parameter in block.parameters()):
            fully_shard(block, mesh=mesh)
    fully_shard(objective, mesh=mesh, ignored_params=set(scalars(objective.parameters())))
    if hasattr(objective, "features"):
        register_fsdp_forward_method(objective, "features")


def blocks(networks: nn.Module) -> list[nn.Module]:
    """The modules of which a network is a row: the innermost that stand in a list of their kind."""
    found = [
        child
        for module in networks.modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and _alike(module)
        for child in module.children()
    ]
    outer = {
        id(module)
        for module in found
        for inner in module.modules()
        if inner is not module
        for other in found
        if other is inner
    }
    return [module for module in found if id(module) not in outer]


def _alike(row: nn.Module) -> bool:
    children = list(row.children())
    return (
        len({type(child) for child in children}) == 1
        and all(any(True for _ in child.children()) for child in children)
        and all(any(True for _ in child.parameters()) for child in children)
    )


def scalars(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.ndim == 0]


def part_scalars(optimizer: torch.optim.Optimizer) -> None:
    """Give scalars groups of their own, behind all others: one call takes cut weights or whole."""
    for group in list(optimizer.param_groups):
        kept = [each for each in group["params"] if each.ndim]
        apart = scalars(group["params"])
        if kept and apart:
            group["params"] = kept
            optimizer.add_param_group({**group, "params": apart})


def is_cut(value: Tensor) -> bool:
    return hasattr(value, "full_tensor")


def joined(value: Tensor) -> Tensor:
    """The whole tensor; where it is cut all processes ask together."""
    return value.full_tensor() if is_cut(value) else value  # pyright: ignore


def share(rows: int, count: int, number: int) -> tuple[int, int]:
    """Which of `rows` the process of this number, of `count`, holds: first, and one past the last.

    As FSDP2 cuts, in pieces of one size; the last ones are smaller, or have none.
    """
    size = -(-rows // count)
    return min(number * size, rows), min((number + 1) * size, rows)


def own_rows(value: Tensor) -> tuple[int, int]:
    """Which rows of a tensor this process holds; of one that is not cut all."""
    mesh: Any = getattr(value, "device_mesh", None)
    count, number = (mesh.size(), mesh.get_local_rank()) if is_cut(value) else (1, 0)
    return share(len(value), count, number)


def own_part(value: Tensor) -> Tensor:
    """The rows that this process holds, in the same memory."""
    return value.to_local() if is_cut(value) else value  # pyright: ignore


@torch.no_grad()
def clip_norm(parameters: Sequence[nn.Parameter], most: float) -> None:
    """Scale all gradients together so that their norm is at most `most`."""
    if not any(is_cut(parameter) for parameter in parameters):
        nn.utils.clip_grad_norm_(parameters, most)
        return
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = [joined(torch.linalg.vector_norm(grad)).item() for grad in grads]
    factor = most / (math.hypot(*norms) + 1e-6)
    if factor < 1:
        for grad in grads:
            grad.mul_(factor)
