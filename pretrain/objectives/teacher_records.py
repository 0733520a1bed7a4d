"""Supervised training from what a teacher said of stored views: Faghri et al. 2023, "Reinforce
Data, Multiply Impact" (arXiv:2303.08983).

Each time a sample comes, one of its stored views is taken, and no other: the published 1 % of fresh
views, of which no teacher has said anything, is left out. Views of two images are not stored.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pretrain import outputs, replay
from pretrain.backbones import IMAGENET_MEAN, IMAGENET_STD, TimmEncoder
from pretrain.classifier import Classifier, accuracy, build_classifier, with_labels
from pretrain.data import Batch
from pretrain.options.teacher_records import TeacherRecordsOptions
from pretrain.settings import TrainSettings


def record_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the student from the teacher, averaged over the batch.

    logits, target: [batch, classes]; targets sum to 1. No temperature.
    """
    return functional.kl_div(logits.log_softmax(-1), target, reduction="batchmean")


class TeacherRecords(Classifier):
    """A classifier of the teacher's classes."""

    def __init__(self, settings: TrainSettings, encoder: TimmEncoder) -> None:
        assert isinstance(settings.options, TeacherRecordsOptions)
        super().__init__(settings, encoder, settings.options.classes)
        self.options = settings.options

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        options = self.options
        stored = replay.pick(batch, options.teacher, self.key("record"))
        images = replay.render(
            torch.from_numpy(batch.images).to(device),
            stored,
            self.settings.image_size,
            IMAGENET_MEAN,
            IMAGENET_STD,
        )
        target = outputs.densify(
            stored["classes"],
            stored["probabilities"],
            len(self.classes),
            spread=options.rest == "spread",
        )
        given = torch.from_numpy(target).to(device)
        return {"images": images, "target": with_labels(given, options, batch)}

    def forward(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits, target = self.head(self.model(views["images"])).float(), views["target"]
        return record_loss(logits, target), {"accuracy": accuracy(logits, target)}


def build(settings: TrainSettings) -> TeacherRecords:
    return TeacherRecords(settings, build_classifier(settings))
