"""Supervised training from a teacher's map of labels, pooled to each crop: Yun et al. 2021,
"Re-labeling ImageNet: from Single to Multi-Labels, from Global to Localized Labels"
(arXiv:2101.05022). The paper was not at hand: from a description of its code.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain import outputs, views
from pretrain.augment import Recipe, view
from pretrain.backbones import TimmEncoder
from pretrain.classifier import (
    Classifier,
    accuracy,
    build_classifier,
    soft_cross_entropy,
    with_labels,
)
from pretrain.data import Batch
from pretrain.options.label_maps import LabelMapsOptions
from pretrain.settings import TrainSettings


class LabelMaps(Classifier):
    """A classifier of the teacher's classes."""

    def __init__(self, settings: TrainSettings, encoder: TimmEncoder) -> None:
        assert isinstance(settings.options, LabelMapsOptions)
        super().__init__(settings, encoder, settings.options.classes)
        self.options = settings.options

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        options = self.options
        numbers = views.uniforms(self.key("view"), batch.places, 16)
        boxes = views.crop_boxes(numbers[:, :4], batch.sizes, options.crop_scale)
        mirrored = numbers[:, 4] < options.flip
        recipe = Recipe(options.crop_scale, options.flip, options.jitter)
        size, pixels = self.settings.image_size, torch.from_numpy(batch.images).to(device)
        images = view(batch, pixels, numbers, boxes, mirrored, size, recipe)
        target = self._target(batch, boxes, device)
        return {"images": images, "target": with_labels(target, options, batch)}

    def _target(self, batch: Batch, boxes: np.ndarray, device: torch.device) -> Tensor:
        """Probabilities within each crop, [batch, classes]; a mirrored crop has the same.

        Maps of one size are pooled together: of several sources each has its own.
        """
        rows = [fields[self.options.teacher] for fields in batch.columns]
        target = torch.empty(len(rows), len(self.classes), device=device)
        shapes = [row["scores"].shape for row in rows]
        for shape in sorted(set(shapes)):
            same = [number for number, each in enumerate(shapes) if each == shape]
            classes = np.stack([rows[number]["classes"] for number in same]).astype(np.int64)
            scores = np.stack([rows[number]["scores"] for number in same]).astype(np.float32)
            target[same] = outputs.pooled(
                torch.from_numpy(classes).to(device),
                torch.from_numpy(scores).to(device),
                torch.from_numpy(boxes[same]).to(device),
                len(self.classes),
            )
        return target

    def forward(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits, target = self.head(self.model(views["images"])).float(), views["target"]
        return soft_cross_entropy(logits, target), {"accuracy": accuracy(logits, target)}


def build(settings: TrainSettings) -> LabelMaps:
    return LabelMaps(settings, build_classifier(settings))
