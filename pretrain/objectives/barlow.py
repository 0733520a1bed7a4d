"""Barlow Twins: Zbontar et al. 2021, "Self-Supervised Learning via Redundancy Reduction"
(arXiv:2103.03230): each number that is made of an image is the same for two views of it, and
tells nothing of the others.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretrain.augment import Recipe, augment
from pretrain.backbones import IMAGENET_MEAN, IMAGENET_STD, TimmEncoder, build_encoder
from pretrain.classifier import output_width
from pretrain.data import Batch
from pretrain.distributed import before, gather
from pretrain.objectives.base import Objective, exact
from pretrain.options.barlow import BarlowOptions
from pretrain.settings import TrainSettings

EPSILON = 1e-5


def cross_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Correlations over the batch of each number of one view with each of the other.

    first, second: [batch, width], of the whole batch of a step; gives [width, width]. Each is
    brought to mean 0 and variance 1 (biased, as batch norm without affine has it).
    """
    first, second = _standardize(first), _standardize(second)
    return first.T @ second / len(first)


def _standardize(values: Tensor) -> Tensor:
    variance, mean = torch.var_mean(values, 0, correction=0)
    return (values - mean) / (variance + EPSILON).sqrt()


def barlow_loss(correlation: Tensor, weight: float) -> Tensor:
    """Sum of (1 - diagonal)^2 and, times weight, of all others squared."""
    diagonal = correlation.diagonal()
    others = correlation.square().sum() - diagonal.square().sum()
    return (1 - diagonal).square().sum() + weight * others


class WholeBatchNorm(nn.BatchNorm1d):
    """Batch norm over the samples of all processes, [batch, width] -> the same."""

    def forward(self, input: Tensor) -> Tensor:
        count = len(input)
        whole = super().forward(gather(input))
        return whole[before(count) :][:count]


def projector(inputs: int, width: int) -> nn.Sequential:
    """Three linear layers without biases, batch norm and ReLU between them."""
    return nn.Sequential(
        nn.Linear(inputs, width, bias=False),
        WholeBatchNorm(width),
        nn.ReLU(),
        nn.Linear(width, width, bias=False),
        WholeBatchNorm(width),
        nn.ReLU(),
        nn.Linear(width, width, bias=False),
    )


class Barlow(Objective):
    """A timm network, and a projector that is thrown away."""

    def __init__(self, settings: TrainSettings, encoder: TimmEncoder) -> None:
        super().__init__(settings)
        assert isinstance(settings.options, BarlowOptions)
        self.options = settings.options
        self.encoder = encoder
        self.model = encoder.model
        self.projector = projector(output_width(self.model), self.options.projector)

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        options = self.options
        return {
            str(view): augment(
                batch,
                device,
                self.key(f"view {view}"),
                self.settings.image_size,
                Recipe(
                    options.crop_scale,
                    options.flip,
                    options.jitter,
                    grey=options.grey,
                    blur=options.blur[view],
                    solarize=options.solarize[view],
                ),
            )
            for view in range(2)
        }

    def forward(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        # One view after the other, as published: batch norms take each view by itself.
        first, second = (self.projector(self.model(views[str(view)])).float() for view in range(2))
        with exact(first.device):
            # Of all samples of the step: correlations of parts do not sum to it, nor do gradients.
            correlation = cross_correlation(gather(first), gather(second))
            loss = barlow_loss(correlation, self.options.off_diagonal)
        return loss, figures(first, correlation)

    def lr_scale(self, name: str, parameter: nn.Parameter) -> float:
        adapted = parameter.ndim >= 2 or self.settings.optimizer != "lars"
        return 1.0 if adapted else self.options.bias_rate

    def files(self) -> Iterator[tuple[str, bytes]]:
        return self.encoder.files(IMAGENET_MEAN, IMAGENET_STD)


@torch.no_grad()
def figures(values: Tensor, correlation: Tensor) -> dict[str, Tensor]:
    """diagonal: near 1 when views agree; redundancy: root mean square of all others, near 0.

    spread: near 1 where images point all ways, 0 where all give the same vector: collapse.
    """
    width = len(correlation)
    others = correlation.square().sum() - correlation.diagonal().square().sum()
    directions = functional.normalize(values, dim=-1)
    return {
        "diagonal": correlation.diagonal().mean(),
        "redundancy": (others.clamp(min=0) / (width * (width - 1))).sqrt(),
        "spread": directions.std(0, correction=0).mean() * width**0.5,
    }


def build(settings: TrainSettings) -> Barlow:
    return Barlow(settings, build_encoder(settings))
