"""DINOv2: Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without Supervision"
(arXiv:2304.07193): DINO over class tokens, iBOT (arXiv:2111.07832) over hidden patches, and KoLeo
(arXiv:1806.03198), which keeps features apart, on one vision transformer.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from infra.errors import SluiceError
from pretrain.backbones import IMAGENET_MEAN, IMAGENET_STD, TimmEncoder, build_encoder, run_blocks
from pretrain.crops import global_crops, local_crops, local_size
from pretrain.data import Batch
from pretrain.heads import Head
from pretrain.masks import block_masks, keyed, spread_counts
from pretrain.objectives.base import Objective, exact
from pretrain.options.dinov2 import DinoV2Options
from pretrain.self_distillation import (
    centred,
    koleo_loss,
    patch_loss,
    ramp,
    recentre,
    sinkhorn,
    spread,
    view_loss,
)
from pretrain.settings import TrainSettings
from pretrain.teacher import cosine, follow, never_drops, take


def encode(
    model: Any, images: Tensor, hidden: Tensor | None = None, blank: Tensor | None = None
) -> Tensor:
    """Normalised tokens [batch, prefix + patches, width] of a vision transformer of timm.

    hidden: bool [batch, patches], those whose embedding `blank` [width] takes the place of,
    before positions are added.
    """
    patches = model.patch_embed(images)
    if hidden is not None and blank is not None:
        there = hidden.view(*patches.shape[:-1], 1)
        patches = torch.where(there, blank.to(patches.dtype), patches)
    return model.norm(run_blocks(model, model.norm_pre(model._pos_embed(patches))))


class Distilled(NamedTuple):
    """What a step gives: the loss, figures, and the student's patches of the global crops."""

    loss: Tensor
    figures: dict[str, Tensor]
    patches: Tensor  # [2 * batch, patches, width]


class DinoV2(Objective):
    """Student and teacher; the teacher's backbone is the encoder that is kept."""

    class_center: Tensor
    patch_center: Tensor

    def __init__(self, settings: TrainSettings, student: TimmEncoder, teacher: TimmEncoder) -> None:
        super().__init__(settings)
        assert isinstance(settings.options, DinoV2Options)
        self.options = options = settings.options
        self.student, self.student_heads = student.model, _heads(student.width, options)
        self.teacher, self.teacher_heads = teacher.model, _heads(student.width, options)
        self.encoder = teacher
        take(self.teacher, self.student)
        take(self.teacher_heads, self.student_heads)
        never_drops(self.teacher)
        self.prefix = int(self.student.num_prefix_tokens)
        self.grid: tuple[int, int] = self.student.patch_embed.grid_size
        self.mask_token = nn.Parameter(torch.zeros(student.width))
        self.register_buffer("class_center", torch.zeros(options.prototypes))
        self.register_buffer("patch_center", torch.zeros(options.prototypes))

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        pixels = torch.from_numpy(batch.images).to(device)
        size, small, options = self.settings.image_size, local_size(self.settings), self.options
        draw = keyed(self.key, batch.places, 2)
        patches = self.grid[0] * self.grid[1]
        order = draw("masked", 1)[:, 0]
        counts = spread_counts(order, patches, options.mask_share, options.mask_ratio)
        hidden = block_masks(draw, counts, self.grid).reshape(len(counts), patches)
        weights = np.repeat(1 / np.maximum(counts, 1), counts).astype(np.float32)
        return {
            "global": global_crops(batch, pixels, self.key, size, options),
            "local": local_crops(batch, pixels, self.key, small, options),
            "hidden": torch.from_numpy(hidden).to(device),
            # The hidden patches in order: numbers of as many in every batch, and their weights.
            "places": torch.from_numpy(np.flatnonzero(hidden)).to(device),
            "weights": torch.from_numpy(weights).to(device),
        }

    def forward(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        done = self.distil(views, progress)
        return done.loss, done.figures

    def distil(self, views: Mapping[str, Any], progress: float) -> Distilled:
        """DINO, iBOT and KoLeo, by their weights."""
        options, wide, places = self.options, views["global"], views["places"]
        batch, warm = len(wide) // 2, options.student_temperature
        class_targets, patch_targets = self._targets(wide, places, progress)
        tokens = encode(self.student, wide, views["hidden"], self.mask_token)
        patches = tokens[:, self.prefix :]
        seen = [tokens[:, 0]]
        if views["local"] is not None:
            seen.append(encode(self.student, views["local"])[:, 0])
        logits = self.student_heads["class"](torch.cat(seen)).float()
        hidden = _head(self.student_heads, "patch")(patches.flatten(0, 1)[places]).float()
        with exact(wide.device):
            dino = view_loss(
                logits.view(-1, batch, options.prototypes),
                class_targets.view(2, batch, options.prototypes),
                warm,
            )
            ibot = patch_loss(hidden, patch_targets, views["weights"], len(wide), warm)
            spreads = [koleo_loss(crop) for crop in seen[0].float().chunk(2)]
        koleo = torch.stack([value for value, _ in spreads]).sum()
        loss = options.dino_weight * dino + options.ibot_weight * ibot
        loss = loss + options.koleo_weight * koleo
        figures = {
            "dino": dino,
            "ibot": ibot,
            "koleo": koleo / 2,
            "near_duplicates": torch.stack([near for _, near in spreads]).mean(),
            **spread(class_targets),
        }
        return Distilled(loss, figures, patches)

    @torch.no_grad()
    def _targets(self, wide: Tensor, places: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """The teacher's, of class tokens [2 * batch, prototypes] and of the hidden patches."""
        tokens = encode(self.teacher, wide)
        patches = tokens[:, self.prefix :].flatten(0, 1)[places]
        classes = self.teacher_heads["class"](tokens[:, 0]).float()
        hidden = _head(self.teacher_heads, "patch")(patches).float()
        cool = self._teacher_temperature(progress)
        with exact(wide.device):
            if self.options.centring == "sinkhorn":
                return sinkhorn(classes, cool), sinkhorn(hidden, cool)
            targets = (
                centred(classes, self.class_center, cool),
                centred(hidden, self.patch_center[: hidden.shape[1]], cool),
            )
        recentre(self.class_center, classes, self.options.center_momentum)
        recentre(self.patch_center, hidden, self.options.center_momentum)
        return targets

    def _teacher_temperature(self, progress: float) -> float:
        return ramp(*self.options.teacher_temperature, self.options.temperature_warmup, progress)

    def weight_decay(self, progress: float) -> float:
        return cosine(self.settings.weight_decay, self.options.weight_decay_end, progress)

    def lr_scale(self, name: str, parameter: nn.Parameter) -> float:
        """The patch embedding learns more slowly, beside what layer_decay does."""
        return self.options.patch_embed_lr if name.startswith("student.patch_embed.") else 1.0

    def before_update(self, progress: float) -> None:
        if progress < self.options.freeze_last_layer:
            for head in self.student_heads.values():
                assert isinstance(head, Head)
                head.rest_last_layer()
        super().before_update(progress)

    def after_update(self, progress: float) -> None:
        keep = cosine(self.options.teacher_momentum, 1.0, progress)
        follow(self.teacher, self.student, keep)
        follow(self.teacher_heads, self.student_heads, keep)

    def files(self) -> Iterator[tuple[str, bytes]]:
        return self.encoder.files(IMAGENET_MEAN, IMAGENET_STD)


def _heads(width: int, options: DinoV2Options) -> nn.ModuleDict:
    """One head for class tokens, and one for patches where that is another."""
    names = ("class", "patch") if options.separate_head else ("class",)
    sizes = (width, options.hidden, options.bottleneck, options.prototypes, options.learn_gain)
    return nn.ModuleDict({name: Head(*sizes) for name in names})


def _head(heads: nn.ModuleDict, name: str) -> nn.Module:
    return heads[name if name in heads else "class"]


def build(settings: TrainSettings) -> DinoV2:
    return DinoV2(settings, *build_pair(settings))


def build_pair(
    settings: TrainSettings, sizes: Sequence[int] = ()
) -> tuple[TimmEncoder, TimmEncoder]:
    """Student and teacher; raises SluiceError for a network that cannot be either.

    sizes: further image sizes that they must take, beside that of local crops.
    """
    assert isinstance(settings.options, DinoV2Options)
    sizes = [*sizes, *([local_size(settings)] if settings.options.local_crops else [])]
    student = build_encoder(settings, sizes, drop_path_rate=settings.options.drop_path)
    _check(student.model, settings)
    return student, build_encoder(settings, sizes)


def _check(model: nn.Module, settings: TrainSettings) -> None:
    if not isinstance(model, VisionTransformer) or model.cls_token is None:
        raise SluiceError(
            f"{settings.objective} cannot train a {type(model).__name__}: it hides patches of a "
            "vision transformer that has a class token",
            "use one of timm: vit_tiny_patch16_224, vit_small_patch14_reg4_dinov2, ...",
        )
    if isinstance(model.norm, nn.Identity) or not isinstance(model.patch_drop, nn.Identity):
        raise SluiceError(
            f"{settings.objective} compares all patches after the last norm; this network norms "
            "its mean alone, or drops patches",
            "leave global_pool, fc_norm, final_norm and patch_drop_rate out of model_kwargs",
        )
