"""An objective's forward pass through torch.compile."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Compiled:
    """`objective`, compiled.

    PyTorch makes code for the first `progress` alone, and at the second one code for any. Both
    are made before the first step: a run that goes on from a checkpoint then takes each step by
    the code of a run that was never stopped.
    """

    def __init__(self, objective: nn.Module) -> None:
        self._objective = objective
        self._forward = torch.compile(objective)
        self._ready = False

    def __call__(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if not self._ready:
            self._prepare(views)
            self._ready = True
        return self._forward(views, progress)

    def _prepare(self, views: Mapping[str, Any]) -> None:
        """Two passes that leave no trace."""
        before = {name: value.clone() for name, value in self._objective.named_buffers()}
        with torch.random.fork_rng():
            for progress in (0.0, 0.5):
                self._forward(views, progress)
        with torch.no_grad():
            for name, value in self._objective.named_buffers():
                value.copy_(before[name])
