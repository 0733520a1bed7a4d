"""Which classes an image shows, several at once: the multi-instance task of Anderson and Farrell
2021, "Improving Fractal Pre-training" (arXiv:2110.03091), for any lists of labels.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pretrain.augment import Recipe, augment
from pretrain.backbones import TimmEncoder
from pretrain.classifier import Classifier, build_classifier, targets
from pretrain.data import Batch
from pretrain.options.multi_instance import MultiInstanceOptions
from pretrain.settings import TrainSettings


def multi_label_loss(logits: Tensor, present: Tensor, weight: float | None) -> Tensor:
    """Binary cross-entropy, averaged over images and classes, those present counting `weight`.

    logits, present: [batch, classes], 1 where present. No weight: classes over classes present,
    of each image; it does not matter for an image without any.
    """
    if weight is None:
        weights = present.shape[1] / present.sum(1, keepdim=True).clamp(min=1)
    else:
        weights = torch.full_like(present[:, :1], weight)
    return functional.binary_cross_entropy_with_logits(logits, present, pos_weight=weights)


class MultiInstance(Classifier):
    """A classifier whose classes do not exclude each other."""

    def __init__(self, settings: TrainSettings, encoder: TimmEncoder) -> None:
        assert isinstance(settings.options, MultiInstanceOptions)
        super().__init__(settings, encoder, settings.options.classes)
        self.options = settings.options

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        recipe = Recipe(self.options.crop_scale, self.options.flip)
        size = self.settings.image_size
        return {
            "images": augment(batch, device, self.key("view"), size, recipe),
            "present": targets(self.options, batch, device),
        }

    def forward(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        present = views["present"]
        logits = self.head(self.model(views["images"])).float()
        loss = multi_label_loss(logits, present, self.options.positive_weight)
        return loss, trusted(logits.detach(), present)


def trusted(logits: Tensor, present: Tensor) -> dict[str, Tensor]:
    """Mean probability of the classes that are present, and of those that are absent."""
    chances, absent = logits.sigmoid(), 1 - present
    return {
        "present": (chances * present).sum() / present.sum().clamp(min=1),
        "absent": (chances * absent).sum() / absent.sum().clamp(min=1),
    }


def build(settings: TrainSettings) -> MultiInstance:
    return MultiInstance(settings, build_classifier(settings))
