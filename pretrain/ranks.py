"""The processes that share each step of a run: which one this is, and what they agree on.

One process is the ordinary case, and needs no process group. Several are started by `torchrun` or
by Ray Train, and joined by torch.distributed.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from infra.errors import SluiceError

if TYPE_CHECKING:
    from torch import Tensor, nn

Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]


class Ranks:
    """rank: the number of this process, of `count`. The one numbered 0 writes.

    group, writing: of torch.distributed on the CPU, for the threads that read and that write
    checkpoints; the step has its own.
    """

    def __init__(
        self, rank: int = 0, count: int = 1, group: Any = None, writing: Any = None
    ) -> None:
        self.rank, self.count, self._group, self._writing = rank, count, group, writing

    @property
    def first(self) -> bool:
        return self.rank == 0

    def any(self, flags: Flags) -> Flags:
        """Which of these flags is set in any process; all processes ask together."""
        if self.count == 1:
            return flags
        import torch
        from torch import distributed

        told = torch.from_numpy(flags.astype(np.uint8))
        distributed.all_reduce(told, distributed.ReduceOp.MAX, group=self._group)
        return told.numpy().astype(bool)

    def owners(self, shards: Sequence[tuple[int, int]]) -> Numbers:
        """The process that each of these samples is dealt to.

        shards: source and shard of each. Every process gets as many of each source to within one,
        and as many of all. Samples of one shard go to as few processes as can be, so that each
        process reads few shards.
        """
        found = np.zeros(len(shards), np.int64)
        order = sorted(range(len(shards)), key=lambda number: (shards[number], number))
        first = 0  # who gets one more than others, where a source cannot be dealt evenly
        for _, group in groupby(order, key=lambda number: shards[number][0]):
            numbers = list(group)
            turns = (np.arange(len(numbers)) + first) % self.count
            found[numbers] = np.sort(turns)
            first = (first + len(numbers)) % self.count
        return found

    @property
    def key(self) -> tuple[int, ...]:
        """What makes random numbers of a step other ones in each process but the first."""
        return () if self.first else (self.rank,)

    def shared(self, module: "nn.Module") -> "nn.Module":
        """`module`, whose gradients become the mean over all processes as they are made."""
        if self.count == 1:
            return module
        from torch.nn.parallel import DistributedDataParallel

        # Running averages are each process's own: what training needs of others it asks them for.
        return DistributedDataParallel(
            module,
            broadcast_buffers=False,
            find_unused_parameters=getattr(module, "rests", False),
        )

    def average(self, parameters: "Iterable[nn.Parameter]") -> None:
        """Make gradients that each process has by itself the mean over all; all ask together.

        All are of the same parameters in every process, and travel in one piece.
        """
        if self.count == 1:
            return
        import torch
        from torch import distributed

        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not grads:
            return
        joint = torch.cat([grad.flatten() for grad in grads])
        distributed.all_reduce(joint)
        joint /= self.count
        for grad, told in zip(grads, joint.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(told.view_as(grad))

    def mean(self, values: "Sequence[Tensor]") -> list[float]:
        """Of scalars, over all processes; all ask together."""
        import torch
        from torch import distributed

        told = torch.stack([value.detach().double() for value in values])
        if self.count > 1:
            distributed.all_reduce(told)
            told /= self.count
        return told.tolist()

    def told(self, value: Any) -> Any:
        """What the first process says, an object or None; all ask together."""
        if self.count == 1:
            return value
        from torch import distributed

        said = [value]
        distributed.broadcast_object_list(said, 0, group=self._group)
        return said[0]

    def each(self, value: Any) -> list[Any]:
        """What every process says, by its number; the threads that write ask together."""
        if self.count == 1:
            return [value]
        from torch import distributed

        said: list[Any] = [None] * self.count
        distributed.all_gather_object(said, value, group=self._writing)
        return said

    def check(self, batch: int) -> None:
        """SluiceError unless the samples of a step can be shared evenly."""
        if batch % self.count:
            raise SluiceError(
                f"a batch of {batch} cannot be shared by {self.count} processes evenly",
                f"use a batch of {-(-batch // self.count) * self.count}, or fewer workers",
            )


def joined() -> Ranks:
    """As torch.distributed has joined this process to others; alone where it has not."""
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        return Ranks()
    count = distributed.get_world_size()
    if count == 1:
        return Ranks()
    reading, writing = (distributed.new_group(backend="gloo") for _ in range(2))
    return Ranks(distributed.get_rank(), count, reading, writing)
