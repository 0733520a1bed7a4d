"""DINO: Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers"
(arXiv:2104.14294): a student learns to give, for every crop, what a slow average of itself gives
for another, larger crop.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.backbones import IMAGENET_MEAN, IMAGENET_STD, TimmEncoder, build_encoder
from pretrain.classifier import output_width
from pretrain.crops import global_crops, local_crops, local_size
from pretrain.data import Batch
from pretrain.heads import Head
from pretrain.objectives.base import Objective
from pretrain.options.dino import DinoOptions
from pretrain.self_distillation import centred, ramp, recentre, spread, view_loss
from pretrain.settings import TrainSettings
from pretrain.teacher import cosine, follow, take


def dino_loss(student: Tensor, teacher: Tensor, center: Tensor, cool: float, warm: float) -> Tensor:
    """Cross-entropy of each student view against each other teacher view, averaged.

    student: [views, batch, prototypes]; teacher: [2, batch, prototypes], the same first two
    views; cool and warm: temperatures of teacher and student.
    """
    return view_loss(student, centred(teacher, center, cool), warm)


class Dino(Objective):
    """Student and teacher; the teacher's backbone is the encoder that is kept."""

    center: Tensor

    def __init__(self, settings: TrainSettings, student: TimmEncoder, teacher: TimmEncoder) -> None:
        super().__init__(settings)
        assert isinstance(settings.options, DinoOptions)
        self.options = options = settings.options
        sizes = (
            output_width(student.model),
            options.hidden,
            options.bottleneck,
            options.prototypes,
        )
        self.student, self.student_head = student.model, Head(*sizes)
        self.teacher, self.teacher_head = teacher.model, Head(*sizes)
        self.encoder = teacher
        take(self.teacher, self.student)
        take(self.teacher_head, self.student_head)
        self.register_buffer("center", torch.zeros(options.prototypes))

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        pixels = torch.from_numpy(batch.images).to(device)
        size, small, options = self.settings.image_size, local_size(self.settings), self.options
        return {
            "global": global_crops(batch, pixels, self.key, size, options),
            "local": local_crops(batch, pixels, self.key, small, options),
        }

    def forward(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        wide, small = views["global"], views["local"]
        batch = len(wide) // 2
        with torch.no_grad():
            teacher = self.teacher_head(self.teacher(wide)).float().view(2, batch, -1)
        features = [self.student(wide)]
        if small is not None:
            features.append(self.student(small))
        student = self.student_head(torch.cat(features)).float()
        student = student.view(-1, batch, teacher.shape[-1])
        cool = self._teacher_temperature(progress)
        loss = dino_loss(student, teacher, self.center, cool, self.options.student_temperature)
        figures = self._figures(teacher, cool)
        recentre(self.center, teacher.flatten(0, 1), self.options.center_momentum)
        return loss, figures

    def _figures(self, teacher: Tensor, cool: float) -> dict[str, Tensor]:
        return spread(centred(teacher, self.center, cool).flatten(0, 1))

    def _teacher_temperature(self, progress: float) -> float:
        return ramp(*self.options.teacher_temperature, self.options.temperature_warmup, progress)

    def weight_decay(self, progress: float) -> float:
        return cosine(self.settings.weight_decay, self.options.weight_decay_end, progress)

    def before_update(self, progress: float) -> None:
        if progress < self.options.freeze_last_layer:
            self.student_head.rest_last_layer()
        limit = self.settings.clip_grad
        if limit is not None:
            for parameter in self.trained():  # each by its own norm, as published
                if parameter.grad is not None:
                    nn.utils.clip_grad_norm_(parameter, limit)

    def after_update(self, progress: float) -> None:
        keep = cosine(self.options.teacher_momentum, 1.0, progress)
        follow(self.teacher, self.student, keep)
        follow(self.teacher_head, self.student_head, keep)

    def files(self) -> Iterator[tuple[str, bytes]]:
        return self.encoder.files(IMAGENET_MEAN, IMAGENET_STD)


def build(settings: TrainSettings) -> Dino:
    assert isinstance(settings.options, DinoOptions)
    sizes = [local_size(settings)] if settings.options.local_crops else []
    student = build_encoder(settings, sizes, drop_path_rate=settings.options.drop_path)
    return Dino(settings, student, build_encoder(settings, sizes))
