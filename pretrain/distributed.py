"""What the losses over pairs need of the other processes of a step, with its gradient.

In a single process, or without a process group, each function is the identity. Otherwise all
processes call them in the same order and with the same shapes, as every collective wants it; the
gradient makes the way back, and sums over all that used a value. With the mean of the gradients
over processes, as DistributedDataParallel takes it, a loss that is the mean of the processes'
losses then has the gradient it has in one process.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed


def world() -> int:
    """Processes that share a step."""
    joined = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if joined else 1


def rank() -> int:
    """The number of this process among them."""
    return distributed.get_rank() if world() > 1 else 0


def gather(values: Tensor) -> Tensor:
    """[n, ...] of each process -> [world * n, ...] in the order of their ranks."""
    return _gather(values) if world() > 1 else values


def around(values: Tensor) -> Iterator[Tensor]:
    """The values [n, ...] of each process in turn, this one's own first.

    Each passes them on to its neighbour: nobody ever holds more than those of two.
    """
    yield values
    for _ in range(world() - 1):
        values = _pass_on(values)
        yield values


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        found = values.new_empty((world() * len(values), *values.shape[1:]))
        distributed.all_gather_into_tensor(found, values.contiguous())
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        own = grad.new_empty((len(grad) // world(), *grad.shape[1:]))
        distributed.reduce_scatter_tensor(own, grad.contiguous())
        return own


class _PassOn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _exchange(values, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _exchange(grads[0], -1)


def _exchange(values: Tensor, step: int) -> Tensor:
    """Send to the process `step` ranks on, receive from the one as far back."""
    values, received = values.contiguous(), torch.empty_like(values)
    here, count = rank(), world()
    works = distributed.batch_isend_irecv(
        [
            distributed.P2POp(distributed.isend, values, (here + step) % count),
            distributed.P2POp(distributed.irecv, received, (here - step) % count),
        ]
    )
    for work in works:
        work.wait()
    return received


# torch.compile leaves these as they are, and compiles what lies before and behind.
_gather: Any = torch.compiler.disable(_Gather.apply)
_pass_on: Any = torch.compiler.disable(_PassOn.apply)
