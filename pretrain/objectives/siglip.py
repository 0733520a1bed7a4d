"""SigLIP: Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training" (arXiv:2303.15343):
every pair of an image and a text is a decision of its own, whether they belong together.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pretrain.backbones import ClipParts, build_clip
from pretrain.distributed import around
from pretrain.objectives.base import Comparing, exact
from pretrain.options.siglip import SiglipOptions
from pretrain.pairs import Pairs
from pretrain.settings import TrainSettings


def siglip_loss(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, chunk: int | None = None
) -> Tensor:
    """Sum over all pairs of -log sigmoid(y (scale * image @ text + bias)), by the count of images.

    image, text: L2-normalised [n, dim] of each process; y is 1 for an image and its own text, -1
    for all others. scale: the factor itself, not its logarithm. chunk: rows at a time.

    As -log sigmoid(z) is softplus(z) - z, all pairs count as negatives and each positive takes
    its z off: no matrix of signs, and rows can come in chunks. Of several processes each compares
    its images with the texts of all, passed on between neighbours; the mean over processes is the
    loss of the whole batch.
    """
    total = -(scale * (image * text).sum(1) + bias).sum()
    for texts in around(text):
        for rows in image.split(chunk or len(image)):
            if chunk is None:
                total = total + _all_apart(rows, texts, scale, bias)
            else:
                total = total + checkpoint(
                    _all_apart,
                    rows,
                    texts,
                    scale,
                    bias,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
    return total / len(image)


def _all_apart(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """The loss where no pair belongs together, summed."""
    return functional.softplus(scale * image @ text.T + bias).sum()


@torch.no_grad()
def accuracy(image: Tensor, text: Tensor, chunk: int | None = None) -> Tensor:
    """Share of the images [n, dim] whose nearest text of [n, dim] is their own, in one process."""
    nearest = [(rows @ text.T).argmax(1) for rows in image.split(chunk or len(image))]
    return (torch.cat(nearest) == torch.arange(len(image), device=image.device)).float().mean()


class Siglip(Pairs, Comparing):
    """Two towers, a learned scale and a learned bias; neither is bounded, as published."""

    def __init__(self, settings: TrainSettings, parts: ClipParts) -> None:
        super().__init__(settings, parts)
        assert isinstance(settings.options, SiglipOptions)
        self.options = settings.options

    def compare(
        self, features: tuple[Tensor, ...], views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        embeddings, chunk = self.nested(features), self.options.chunk
        scale, bias = self.model.logit_scale.exp(), self.model.logit_bias
        image, text = embeddings[-1]
        with exact(image.device):
            losses = [siglip_loss(*pair, scale, bias, chunk) for pair in embeddings]
            right = accuracy(image, text, chunk)
        loss, figures = self.mean(losses)
        return loss, {
            "logit_scale": scale.detach(),
            "logit_bias": bias.detach(),
            "accuracy": right,
            **figures,
            **self.told(views),
        }


def build(settings: TrainSettings) -> Siglip:
    options = settings.options
    assert isinstance(options, SiglipOptions)
    start = {"init_logit_scale": math.log(options.init_scale), "init_logit_bias": options.init_bias}
    parts = build_clip(settings, **start)
    if settings.pretrained and not parts.model.logit_bias.any():
        # Weights of a CLIP have no bias, and open_clip then puts 0: all pairs would look alike.
        with torch.no_grad():
            parts.model.logit_scale.fill_(start["init_logit_scale"])
            parts.model.logit_bias.fill_(start["init_logit_bias"])
    return Siglip(settings, parts)
