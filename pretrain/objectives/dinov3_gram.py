"""Gram anchoring: Siméoni et al. 2025, "DINOv3" (arXiv:2508.10104). A long DINOv2 training wears
off what patches tell of their places; here their similarities to each other are held to those
that an earlier, frozen teacher saw in the same crops at a higher resolution.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from infra.errors import SluiceError
from pretrain.backbones import TimmEncoder, build_encoder
from pretrain.crops import local_size, plain_global_crops
from pretrain.data import Batch
from pretrain.objectives.base import exact
from pretrain.objectives.dinov2 import DinoV2, build_pair, encode
from pretrain.options.dinov3_gram import DinoV3GramOptions
from pretrain.settings import TrainSettings
from pretrain.teacher import never_drops, take


def gram_loss(student: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of the cosines between all patches of an image, over all entries.

    student: [images, patches, width]; target: [images, patches, any width]. float32 throughout.
    """
    mine, wanted = (functional.normalize(x.float(), dim=-1) for x in (student, target))
    return functional.mse_loss(mine @ mine.transpose(1, 2), wanted @ wanted.transpose(1, 2))


def to_grid(patches: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Patches [images, source rows * columns, width] resampled bicubically, without
    antialiasing, to [images, target rows * columns, width].
    """
    grid = patches.float().transpose(1, 2).unflatten(2, source)
    sized = functional.interpolate(grid, target, mode="bicubic", align_corners=False)
    return sized.flatten(2).transpose(1, 2)


class DinoV3Gram(DinoV2):
    """DINOv2, and a frozen teacher whose patches anchor the student's."""

    def __init__(
        self,
        settings: TrainSettings,
        student: TimmEncoder,
        teacher: TimmEncoder,
        anchor: TimmEncoder | None,
    ) -> None:
        super().__init__(settings, student, teacher)
        assert isinstance(settings.options, DinoV3GramOptions)
        self.gram: DinoV3GramOptions = settings.options
        self.anchor: Any = anchor.model if anchor else None
        if anchor:
            never_drops(self.anchor)
            self.anchor.requires_grad_(False)
        self.size = gram_size(settings)
        patch = self.student.patch_embed.patch_size
        self.fine_grid = (self.size // patch[0], self.size // patch[1])

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        """Those of DINOv2, and from `gram_start` on undistorted ones of the same crops."""
        found = super().views(batch, device)
        found["fine"] = None
        if batch.places.min() // self.settings.batch >= self.gram.gram_start:
            pixels = torch.from_numpy(batch.images).to(device)
            cut = (batch, pixels, self.key, self.size, self.options)
            found["fine"] = plain_global_crops(*cut)
        return found

    def forward(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        done = self.distil(views, progress)
        value, weight = torch.zeros_like(done.loss), 0.0
        if views["fine"] is not None:
            weight = gram_weight(self.gram, progress * self.settings.steps)
            target = self._target(views["fine"])
            with exact(target.device):
                value = gram_loss(*(self._compared(x, views) for x in (done.patches, target)))
        figures = {"gram": value, "gram_weight": torch.full_like(value, weight)}
        return done.loss + weight * value, {**done.figures, **figures}

    @torch.no_grad()
    def _target(self, fine: Tensor) -> Tensor:
        """The anchor's patches [images, patches of the student's grid, width]."""
        model = self.teacher if self.anchor is None else self.anchor
        return to_grid(encode(model, fine)[:, self.prefix :], self.fine_grid, self.grid)

    def _compared(self, patches: Tensor, views: Mapping[str, Any]) -> Tensor:
        """[images, patches, width], or one row of those of the batch that are compared."""
        if self.gram.gram_scope == "image":
            return patches
        rows, places = patches.flatten(0, 1), views["places"]
        if self.gram.gram_tokens == "all":
            return rows[None]
        if self.gram.gram_tokens == "unmasked":  # how many is known: no GPU is waited for
            order = views["hidden"].flatten().byte().argsort(stable=True)
            places = order[: len(rows) - len(places)]
        return rows.index_select(0, places)[None]

    def after_update(self, progress: float) -> None:
        super().after_update(progress)
        if self.anchor is None:
            return
        since = round(progress * self.settings.steps) + 1 - self.gram.gram_start
        if (since == 0 and self.gram.gram_teacher == "start") or self._due(since):
            take(self.anchor, self.teacher)

    def _due(self, since: int) -> bool:
        """Whether the anchor is replaced, so many updates after `gram_start`."""
        every, most = self.gram.gram_refresh_every, self.gram.gram_refreshes
        return every is not None and since > 0 and since % every == 0 and since // every <= most


def gram_weight(options: DinoV3GramOptions, step: float) -> float:
    """Weight of the Gram loss in the step of this number, counted from 0."""
    since = step - options.gram_start
    if since < 0:
        return 0.0
    share = min(since / options.gram_ramp, 1.0) if options.gram_ramp else 1.0
    return options.gram_weight * (1 - math.cos(math.pi * share)) / 2


def gram_size(settings: TrainSettings) -> int:
    """Pixels of the frozen teacher's crops."""
    assert isinstance(settings.options, DinoV3GramOptions)
    return settings.options.gram_size or 2 * settings.image_size


def build(settings: TrainSettings) -> DinoV3Gram:
    assert isinstance(settings.options, DinoV3GramOptions)
    options = settings.options
    if options.gram_teacher == "start" and not options.gram_start and not settings.pretrained:
        raise SluiceError(
            "gram_start is 0, so the weights of the start are the anchor, and they are random",
            "set `pretrained` to a dinov2 run, gram_teacher to weights, or a later gram_start",
        )
    if options.gram_start >= settings.steps:
        raise SluiceError(
            f"gram_start is {options.gram_start}, and the run ends after {settings.steps} steps",
            "set an earlier gram_start, or train with dinov2",
        )
    return DinoV3Gram(settings, *build_pair(settings, [gram_size(settings)]), _anchor(settings))


def _anchor(settings: TrainSettings) -> TimmEncoder | None:
    """The frozen teacher; None where the moving average itself is taken."""
    assert isinstance(settings.options, DinoV3GramOptions)
    options = settings.options
    if options.gram_teacher == "average":
        return None
    weights = options.gram_weights or settings.pretrained
    own = settings.model_copy(update={"pretrained": weights})
    try:
        return build_encoder(own, [local_size(settings), gram_size(settings)])
    except SluiceError as error:
        if not options.gram_weights:
            raise
        raise SluiceError(
            f"gram_weights: {error.what}",
            "give a run of dinov2 with this very model",
        ) from error
