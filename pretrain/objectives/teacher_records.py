"""Supervised training from what a teacher said of stored views: Faghri et al. 2023, "Reinforce
Data, Multiply Impact" (arXiv:2303.08983).

Records with second images (mixup, cutmix) and further augmentations are not replayed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pretrain import views
from pretrain.augment import Recipe, view
from pretrain.backbones import TimmEncoder
from pretrain.classifier import Classifier, accuracy, build_classifier
from pretrain.data import Batch
from pretrain.labels import Record, densify
from pretrain.options.teacher_records import TeacherRecordsOptions
from pretrain.settings import TrainSettings


def record_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the student from the teacher, averaged over the batch.

    logits, target: [batch, classes]; targets sum to 1. No temperature and no term of labels.
    """
    return functional.kl_div(logits.log_softmax(-1), target, reduction="batchmean")


class TeacherRecords(Classifier):
    """A classifier of the teacher's classes."""

    def __init__(self, settings: TrainSettings, encoder: TimmEncoder) -> None:
        assert isinstance(settings.options, TeacherRecordsOptions)
        super().__init__(
            settings, encoder, [str(place) for place in range(settings.options.classes)]
        )
        self.options = settings.options

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        options = self.options
        numbers = views.uniforms(self.key("view"), batch.places, 16)
        choices = views.uniforms(self.key("record"), batch.places, 1)[:, 0]
        records: list[Record] = []
        for fields, choice in zip(batch.meta, choices, strict=True):
            stored = options.records(fields)
            records.append(stored[int(choice * len(stored))])
        boxes = views.crop_boxes(numbers[:, :4], batch.sizes, options.crop_scale)
        mirrored = numbers[:, 4] < options.flip
        for row, record in enumerate(records):
            boxes[row] = boxes[row] if record.box is None else record.box
            mirrored[row] = mirrored[row] if record.flip is None else record.flip
        spread = options.rest == "spread"
        rows = [densify(record.shares, options.classes, spread) for record in records]
        size = self.settings.image_size
        pixels = torch.from_numpy(batch.images).to(device)
        return {
            "images": view(batch, pixels, numbers, boxes, mirrored, size, Recipe()),
            "target": torch.from_numpy(np.asarray(rows, np.float32)).to(device),
        }

    def forward(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits, target = self.head(self.model(views["images"])).float(), views["target"]
        return record_loss(logits, target), {"accuracy": accuracy(logits, target)}


def build(settings: TrainSettings) -> TeacherRecords:
    return TeacherRecords(settings, build_classifier(settings))
