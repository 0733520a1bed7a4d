"""Distillation from a frozen teacher's features by their norm and direction: Wang et al. 2023,
"Improving Knowledge Distillation via Regularizing Feature Norm and Direction" (arXiv:2305.17007).

The loss stands alone here: neither network has a classifier, as its terms on logits would need.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from infra.errors import SluiceError
from pretrain import replay
from pretrain.augment import Recipe, augment
from pretrain.backbones import IMAGENET_MEAN, IMAGENET_STD, TimmEncoder, build_encoder
from pretrain.classifier import output_width, targets
from pretrain.data import Batch
from pretrain.image_teacher import ImageTeacher, image_teacher
from pretrain.objectives.base import Objective, exact
from pretrain.options.feature_distill import FeatureDistillOptions
from pretrain.settings import TrainSettings


def norm_direction_loss(student: Tensor, teacher: Tensor, directions: Tensor) -> Tensor:
    """1 - (student . direction) / max(|student|, |teacher|), averaged over the batch.

    All [batch, width]; directions are of unit length. A student shorter than the teacher gains by
    length along the direction, a longer one by its angle alone.
    """
    longest = torch.maximum(student.norm(dim=1), teacher.norm(dim=1)).clamp(min=1e-12)
    return (1 - (student * directions).sum(1) / longest).mean()


class FeatureDistill(Objective):
    """A timm network that learns, a linear layer to the teacher's width, and the teacher.

    sums: [classes, width], of the teacher's features seen so far, whose directions are those of
    the class means; they take the place of the published pass over all samples beforehand.
    """

    full_size = frozenset({"teacher"})

    sums: Tensor

    def __init__(
        self, settings: TrainSettings, encoder: TimmEncoder, teacher: ImageTeacher | None
    ) -> None:
        super().__init__(settings)
        assert isinstance(settings.options, FeatureDistillOptions)
        self.options = settings.options
        self.encoder = encoder
        self.model = encoder.model
        width = teacher.width if teacher else self.options.width or 0
        self.projector = nn.Linear(output_width(self.model), width)
        self.teacher = teacher
        self.register_buffer("sums", torch.zeros(len(self.options.classes), width))

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        options, size = self.options, self.settings.image_size
        if self.teacher is None:
            found = self._stored(batch, device)
        else:
            recipe = Recipe(options.crop_scale, options.flip, options.jitter)
            same = replace(recipe, mean=self.teacher.mean, std=self.teacher.std)
            found = {
                "student": augment(batch, device, self.key("view"), size, recipe),
                "teacher": augment(batch, device, self.key("view"), self.teacher.size, same),
            }
        if options.direction == "class":
            found["target"] = targets(options, batch, device)
        return found

    def _stored(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        """Views that were stored, and what the teacher gave for each."""
        stored = replay.pick(batch, self.options.stored or "", self.key("record"))
        pixels, size = torch.from_numpy(batch.images).to(device), self.settings.image_size
        images = replay.render(pixels, stored, size, IMAGENET_MEAN, IMAGENET_STD)
        vectors = torch.from_numpy(stored["vectors"].astype(np.float32))
        return {"student": images, "vectors": vectors.to(device)}

    def forward(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.teacher is None:
            teacher = views["vectors"]
        else:
            teacher = self.teacher(views["teacher"]).float()
        student = self.projector(self.model(views["student"])).float()
        with exact(student.device):
            directions = functional.normalize(self._means(teacher, views.get("target")), dim=1)
            loss = norm_direction_loss(student, teacher, directions)
        return loss, figures(student.detach(), teacher)

    @torch.no_grad()
    def _means(self, teacher: Tensor, target: Tensor | None) -> Tensor:
        """What each image's direction is that of, [batch, width]."""
        if target is None:
            return teacher
        self.sums.add_(target.T @ teacher)
        return target @ self.sums

    def files(self) -> Iterator[tuple[str, bytes]]:
        return self.encoder.files(IMAGENET_MEAN, IMAGENET_STD)


def figures(student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    """cosine of each image's two features, and length of the student's over the teacher's."""
    lengths = student.norm(dim=1).mean() / teacher.norm(dim=1).mean().clamp(min=1e-12)
    return {"cosine": functional.cosine_similarity(student, teacher).mean(), "length": lengths}


def build(settings: TrainSettings) -> FeatureDistill:
    options = settings.options
    assert isinstance(options, FeatureDistillOptions)
    if options.teacher is None and options.stored is None:
        raise SluiceError(
            "feature_distill learns from a teacher, and options.teacher names none",
            "give a finished run's folder, or timm:<name>; or options.stored, columns with vectors",
        )
    if options.direction == "class" and not options.classes:
        raise SluiceError(
            "the directions are to be those of classes, and options.classes names none",
            f"list the values of the field {options.label!r} there, or set direction to image",
        )
    teacher = None
    if options.teacher is not None:
        teacher = image_teacher(options.teacher, options.teacher_kwargs, settings.image_size)
    return FeatureDistill(settings, build_encoder(settings), teacher)
