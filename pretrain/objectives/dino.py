"""DINO: Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers"
(arXiv:2104.14294): a student learns to give, for every crop, what a slow average of itself gives
for another, larger crop.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pretrain import views
from pretrain.backbones import IMAGENET_MEAN, IMAGENET_STD, TimmEncoder, build_encoder
from pretrain.data import Batch
from pretrain.objectives.base import Objective
from pretrain.options.dino import DinoOptions
from pretrain.settings import TrainSettings

JITTER_CHANCE, GREY_CHANCE, SOLARIZE_CHANCE = 0.8, 0.2, 0.2
BLUR_CHANCE = (1.0, 0.1)  # of the two global crops
LOCAL_BLUR_CHANCE = 0.5


class Head(nn.Module):
    """Three layers, L2 normalisation, and a last layer of unit directions.

    The last layer is a weight-normalised linear layer whose gain is fixed at 1.
    """

    def __init__(self, width: int, options: DinoOptions) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, options.hidden),
            nn.GELU(),
            nn.Linear(options.hidden, options.hidden),
            nn.GELU(),
            nn.Linear(options.hidden, options.bottleneck),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last = nn.Linear(options.bottleneck, options.prototypes, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """[batch, width] -> [batch, prototypes]."""
        directions = functional.normalize(self.last.weight, dim=-1)
        return functional.normalize(self.layers(features), dim=-1) @ directions.T


def dino_loss(student: Tensor, teacher: Tensor, center: Tensor, cool: float, warm: float) -> Tensor:
    """Cross-entropy of each student view against each other teacher view, averaged.

    student: [views, batch, prototypes]; teacher: [2, batch, prototypes], the same first two
    views; cool and warm: temperatures of teacher and student.
    """
    targets = functional.softmax((teacher - center) / cool, dim=-1)
    logs = functional.log_softmax(student / warm, dim=-1)
    terms = [
        -(targets[target] * logs[view]).sum(-1).mean()
        for target in range(len(teacher))
        for view in range(len(student))
        if view != target
    ]
    return torch.stack(terms).mean()


class Dino(Objective):
    """Student and teacher; the teacher's backbone is the encoder that is kept."""

    center: Tensor

    def __init__(self, settings: TrainSettings, student: TimmEncoder, teacher: TimmEncoder) -> None:
        super().__init__(settings)
        assert isinstance(settings.options, DinoOptions)
        self.options = settings.options
        self.student, self.student_head = student.model, Head(student.width, self.options)
        self.teacher, self.teacher_head = teacher.model, Head(student.width, self.options)
        self.encoder = teacher
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher_head.load_state_dict(self.student_head.state_dict())
        self.teacher.requires_grad_(False)
        self.teacher_head.requires_grad_(False)
        self.register_buffer("center", torch.zeros(self.options.prototypes))

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        pixels = torch.from_numpy(batch.images).to(device)
        size, options = self.settings.image_size, self.options
        wide = [
            self._view(
                batch,
                pixels,
                f"global {i}",
                size,
                options.global_scale,
                BLUR_CHANCE[i],
                SOLARIZE_CHANCE if i else 0.0,
            )
            for i in range(2)
        ]
        small = [
            self._view(
                batch,
                pixels,
                f"local {i}",
                local_size(self.settings),
                options.local_scale,
                LOCAL_BLUR_CHANCE,
                0.0,
            )
            for i in range(options.local_crops)
        ]
        return {"global": torch.cat(wide), "local": torch.cat(small) if small else None}

    def _view(
        self,
        batch: Batch,
        pixels: Tensor,
        name: str,
        size: int,
        scale: tuple[float, float],
        blur: float,
        solarize: float,
    ) -> Tensor:
        numbers = views.uniforms(self.key(name), batch.places, 16)
        boxes = views.crop_boxes(numbers[:, :4], batch.sizes, scale)
        low, high = (sigma * size / 224 for sigma in views.BLUR_SIGMA)
        sigma = np.where(numbers[:, 11] < blur, low + (high - low) * numbers[:, 12], 0.0)
        images = views.crop(pixels, boxes, size, numbers[:, 4] < self.options.flip, sigma)
        images = views.colour(images, numbers[:, 5:10], self.options.jitter, JITTER_CHANCE)
        images = views.grey(images, numbers[:, 10] < GREY_CHANCE)
        if solarize:
            images = views.solarize(images, numbers[:, 13] < solarize)
        return views.normalize(images, IMAGENET_MEAN, IMAGENET_STD)

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
        with torch.no_grad():
            self.center.lerp_(teacher.mean((0, 1)), 1 - self.options.center_momentum)
        return loss, figures

    def _figures(self, teacher: Tensor, cool: float) -> dict[str, Tensor]:
        """Both near 1: all outputs uniform; usage near 0: all images alike. Both are collapse."""
        targets = functional.softmax((teacher - self.center) / cool, dim=-1).flatten(0, 1)
        most = math.log(targets.shape[-1])
        mean = targets.mean(0)
        return {
            "entropy": torch.special.entr(targets).sum(-1).mean() / most,
            "usage": torch.special.entr(mean).sum() / most,
        }

    def _teacher_temperature(self, progress: float) -> float:
        first, last = self.options.teacher_temperature
        warmup = self.options.temperature_warmup
        return first + (last - first) * min(progress / warmup, 1.0) if warmup else last

    def weight_decay(self, progress: float) -> float:
        first, last = self.settings.weight_decay, self.options.weight_decay_end
        return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2

    def before_update(self, progress: float) -> None:
        if progress < self.options.freeze_last_layer:
            self.student_head.last.weight.grad = None
        limit = self.settings.clip_grad
        if limit is not None:
            for parameter in self.trained():  # each by its own norm, as published
                if parameter.grad is not None:
                    nn.utils.clip_grad_norm_(parameter, limit)

    @torch.no_grad()
    def after_update(self, progress: float) -> None:
        keep = 1 - (1 - self.options.teacher_momentum) * (1 + math.cos(math.pi * progress)) / 2
        for mean, model in ((self.teacher, self.student), (self.teacher_head, self.student_head)):
            for slow, fast in zip(mean.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 1 - keep)

    def files(self) -> Iterator[tuple[str, bytes]]:
        return self.encoder.files(IMAGENET_MEAN, IMAGENET_STD)


def local_size(settings: TrainSettings) -> int:
    """Pixels of a local crop: as set, else half the image size in whole patches."""
    assert isinstance(settings.options, DinoOptions)
    patch = settings.patch_size or 1
    return settings.options.local_size or max(settings.image_size // 2 // patch, 1) * patch


def build(settings: TrainSettings) -> Dino:
    assert isinstance(settings.options, DinoOptions)
    sizes = [local_size(settings)] if settings.options.local_crops else []
    student = build_encoder(settings, sizes, drop_path_rate=settings.options.drop_path)
    return Dino(settings, student, build_encoder(settings, sizes))
