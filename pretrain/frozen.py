"""A network that others learn from and that never changes itself."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Frozen(nn.Module):
    """Holds a network without training it: no gradients, always in evaluation mode.

    The network moves between devices with the module this is in, and is otherwise no part of it:
    its weights are in a file of their own already, so checkpoints neither hold nor expect them.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._held = (network.eval().requires_grad_(False),)  # a tuple hides it from the module

    @property
    def network(self) -> Any:
        return self._held[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Frozen":
        self.network._apply(fn, recurse)
        return self
