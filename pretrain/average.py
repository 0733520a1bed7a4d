"""A moving average of the weights (Polyak), kept beside them and left as the encoder."""

import torch
from torch import Tensor, nn

from pretrain.objectives.base import Objective
from pretrain.teacher import approach


class Average:
    """Averages of all that is trained, and of floating-point buffers such as running means.

    After t updates a share `min(keep, (1 + t) / (10 + t))` of the average stays at the next: an
    average that kept 0.9999 from the start would for long be of random weights alone.
    `tensors`, by the names of the objective's state, is all there is to save.
    """

    def __init__(self, objective: Objective, keep: float) -> None:
        self.keep = keep
        trained = {id(parameter) for parameter in objective.trained()}
        state: dict[str, Tensor] = objective.state_dict(keep_vars=True)
        self._live = {
            name: value
            for name, value in state.items()
            if value.is_floating_point()
            and (id(value) in trained or not isinstance(value, nn.Parameter))
        }
        self.tensors = {name: value.detach().clone() for name, value in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as they are after step `step`, counted from 0."""
        keep = min(self.keep, (1 + step) / (10 + step))
        live = [self._live[name] for name in self.tensors]
        approach(self.tensors.values(), live, 1 - keep)

    @torch.no_grad()
    def swap(self) -> None:
        """Weights and averages change places; called again, all is as it was, to the last bit."""
        for name, mean in self.tensors.items():
            weight = self._live[name].clone()
            self._live[name].copy_(mean)
            mean.copy_(weight)
