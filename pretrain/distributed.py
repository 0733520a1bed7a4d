"""What the losses over pairs need of the other processes of a step, with its gradient.

In a single process, or without a process group, each function is the identity. Otherwise all
processes call them in the same order and with the same shapes, as every collective wants it; the
gradient makes the way back, and sums over all that used a value. With the mean of the gradients
over processes, as DistributedDataParallel takes it, a loss that is the mean of the processes'
losses then has the gradient it has in one process.

Where processes have other numbers of samples each (`spread`), the loss that counts is the mean by
samples: of a process it is multiplied by `weight()`, and what is the same in all stays what it is.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, distributed

# Samples of each process, ALONE where each has them all; EVEN: as many in each.
EVEN: tuple[int, ...] = ()
ALONE: tuple[int, ...] = (-1,)
_COUNTS: ContextVar[tuple[int, ...]] = ContextVar("samples of each process", default=EVEN)


@contextlib.contextmanager
def spread(counts: Sequence[int]) -> Iterator[None]:
    """Within it the samples lie so in the processes; `ALONE`: all in each, which asks no other."""
    token = _COUNTS.set(tuple(counts))
    try:
        yield
    finally:
        _COUNTS.reset(token)


def world() -> int:
    """Processes that share a step."""
    if _COUNTS.get() == ALONE:
        return 1
    joined = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if joined else 1


def rank() -> int:
    """The number of this process among them."""
    return distributed.get_rank() if world() > 1 else 0


def before(count: int) -> int:
    """Samples of the processes before this one, which has `count`: its first one's place."""
    counts = _counts(count)
    return sum(counts[: rank()])


def weight() -> float:
    """Of this process's loss, so that the mean over processes is the mean over samples."""
    counts = _COUNTS.get()
    return 1.0 if counts in (EVEN, ALONE) else counts[rank()] * len(counts) / sum(counts)


def _counts(own: int) -> tuple[int, ...]:
    """Samples of each process; own: of this one."""
    counts = _COUNTS.get()
    found = (own,) * world() if counts in (EVEN, ALONE) else counts
    assert found[rank()] == own, f"{own} samples, where {found} were told"
    return found


def gather(values: Tensor) -> Tensor:
    """[n, ...] of each process -> [all n, ...] in the order of their ranks."""
    if world() == 1:
        return values
    counts = _counts(len(values))
    most = max(counts)
    found = _gather(_filled(values, most))
    if min(counts) == most:
        return found
    return torch.cat([rows[:n] for rows, n in zip(found.split(most), counts, strict=True)])


def around(values: Tensor) -> Iterator[Tensor]:
    """The values [n, ...] of each process in turn, this one's own first.

    Each passes them on to its neighbour: nobody ever holds more than those of two.
    """
    yield values
    counts, here = _counts(len(values)), rank()
    values = _filled(values, max(counts))
    for step in range(1, world()):
        values = _pass_on(values)
        yield values[: counts[here - step]]


def mean_row(values: Tensor) -> Tensor:
    """The mean [...] of the rows [n, ...] of all processes, however many each has; no gradient."""
    if world() == 1:
        return values.mean(0)
    total = torch.cat([values.sum(0).flatten(), values.new_full((1,), len(values))])
    distributed.all_reduce(total)
    return (total[:-1] / total[-1]).view_as(values[0])


def _filled(values: Tensor, count: int) -> Tensor:
    """[n, ...] -> [count, ...] with zeros behind: collectives take tensors of one shape."""
    missing = count - len(values)
    return torch.cat([values, values.new_zeros(missing, *values.shape[1:])]) if missing else values


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
