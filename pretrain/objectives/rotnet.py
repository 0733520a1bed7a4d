"""RotNet: Gidaris et al. 2018, "Unsupervised Representation Learning by Predicting Image
Rotations" (arXiv:1803.07728): which of four ways up an image is.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pretrain.augment import Recipe, augment
from pretrain.backbones import IMAGENET_MEAN, IMAGENET_STD, TimmEncoder, build_encoder
from pretrain.classifier import linear, output_width
from pretrain.data import Batch
from pretrain.objectives.base import Objective
from pretrain.options.rotnet import RotnetOptions
from pretrain.settings import TrainSettings

TURNS = 4


def turned(images: Tensor) -> Tensor:
    """[batch, channels, side, side] -> [4 * batch, ...]: upright, then by 90, 180 and 270 degrees.

    Counterclockwise. All four of an image are in one batch, so that the image itself tells nothing.
    """
    return torch.cat([images.rot90(turn, (2, 3)) for turn in range(TURNS)])


def rotation_loss(logits: Tensor) -> Tensor:
    """Cross-entropy over the four turns. logits: [4 * batch, 4], in the order of `turned`."""
    return functional.cross_entropy(logits, turns(logits))


def turns(logits: Tensor) -> Tensor:
    """The turn of each row of `turned`, int64 [4 * batch]."""
    count = len(logits) // TURNS
    return torch.arange(TURNS, device=logits.device).repeat_interleave(count)


class Rotnet(Objective):
    """A timm network, and a linear layer that is thrown away."""

    def __init__(self, settings: TrainSettings, encoder: TimmEncoder) -> None:
        super().__init__(settings)
        assert isinstance(settings.options, RotnetOptions)
        self.options = settings.options
        self.encoder = encoder
        self.model = encoder.model
        self.head = linear(output_width(self.model), TURNS)

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        recipe = Recipe(self.options.crop_scale, self.options.flip)
        images = augment(batch, device, self.key("view"), self.settings.image_size, recipe)
        return {"images": turned(images).contiguous(memory_format=torch.channels_last)}

    def forward(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.head(self.model(views["images"])).float()
        right = logits.argmax(-1) == turns(logits)
        return rotation_loss(logits), {"accuracy": right.float().mean()}

    def files(self) -> Iterator[tuple[str, bytes]]:
        return self.encoder.files(IMAGENET_MEAN, IMAGENET_STD)


def build(settings: TrainSettings) -> Rotnet:
    return Rotnet(settings, build_encoder(settings))
