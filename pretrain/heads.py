"""Heads on an encoder: of self-distillation, Caron et al. 2021 (arXiv:2104.14294), of contrast."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Head(nn.Module):
    """Three layers, L2 normalisation, and a last layer of unit directions.

    The last layer is a weight-normalised linear layer. Its gain is fixed at 1, so that outputs are
    cosines; with `gain` each output learns its own, which starts at 1.
    """

    def __init__(
        self, width: int, hidden: int, bottleneck: int, prototypes: int, gain: bool = False
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last = nn.Linear(bottleneck, prototypes, bias=False)
        self.gain = nn.Parameter(torch.ones(prototypes)) if gain else None

    def forward(self, features: Tensor) -> Tensor:
        """[batch, width] -> [batch, prototypes]."""
        directions = functional.normalize(self.last.weight, dim=-1)
        cosines = functional.normalize(self.layers(features), dim=-1) @ directions.T
        return cosines if self.gain is None else cosines * self.gain

    def rest_last_layer(self) -> None:
        """Drop the last layer's gradients: the optimizer then leaves it as it is."""
        self.last.weight.grad = None
        if self.gain is not None:
            self.gain.grad = None


def projection(width: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two layers, [batch, width] -> [batch, outputs]: Chen et al. 2020 (arXiv:2003.04297)."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
