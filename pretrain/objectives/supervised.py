"""Training with classes, hard or soft, on images that may be mixed (see `pretrain.mixes`).

The recipe is DeiT's: Touvron et al. 2020 (arXiv:2012.12877).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra.errors import SluiceError
from pretrain import mixes, views
from pretrain.augment import Recipe, augment, betas
from pretrain.backbones import TimmEncoder
from pretrain.classifier import Classifier, accuracy, build_classifier, soft_cross_entropy, targets
from pretrain.data import Batch
from pretrain.objectives.base import exact
from pretrain.options.supervised import SupervisedOptions
from pretrain.settings import TrainSettings


class Supervised(Classifier):
    """A classifier; with transmix and mixpro its own attention weighs the labels."""

    def __init__(self, settings: TrainSettings, encoder: TimmEncoder) -> None:
        assert isinstance(settings.options, SupervisedOptions)
        super().__init__(settings, encoder, settings.options.classes)
        self.options = settings.options
        self.attends = self.opens_blocks = bool(mixes.ATTENDING & set(self.options.mix))
        patch = self.model.patch_embed.patch_size[0] if self.attends else 1
        self.cell = patch * self.options.mask_patches

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        options, size = self.options, self.settings.image_size
        recipe = Recipe(options.crop_scale, options.flip, options.jitter)
        images = augment(batch, device, self.key("view"), size, recipe)
        target = targets(options, batch, device)
        if not options.mix:
            return {"images": images, "target": target}
        kinds = self._kinds(batch.places)
        own = torch.from_numpy(self._maps(batch.places, kinds)).to(device)
        return {
            "images": mixes.blend(images, own),
            "target": target,
            "own": own,
            "attend": self._of(kinds, ("transmix", "mixpro")).to(device),
            "progressive": self._of(kinds, ("mixpro",)).to(device),
        }

    def _kinds(self, places: np.ndarray) -> np.ndarray:
        """The number in `options.mix` of each sample's way, -1 for none; int64 [batch]."""
        numbers = views.uniforms(self.key("mix"), places, 2)
        kinds = (numbers[:, 0] * len(self.options.mix)).astype(np.int64)
        return np.where(numbers[:, 1] < self.options.mix_chance, kinds, -1)

    def _of(self, kinds: np.ndarray, names: tuple[str, ...]) -> Tensor:
        """1 where a sample is mixed in one of these ways, float32 [batch]."""
        wanted = [place for place, name in enumerate(self.options.mix) if name in names]
        return torch.from_numpy(np.isin(kinds, wanted).astype(np.float32))

    def _maps(self, places: np.ndarray, kinds: np.ndarray) -> np.ndarray:
        """Each image's own share of its pixels, float32 [batch, size, size]."""
        size, options = self.settings.image_size, self.options
        maps = np.ones((len(places), size, size), np.float32)
        for place, name in enumerate(options.mix):
            rows = np.flatnonzero(kinds == place)
            if not len(rows):
                continue
            alpha = options.mixup_alpha if name == "mixup" else options.cut_alpha
            own = betas(self.key(name, "share"), places[rows], alpha)
            if name == "mixup":
                maps[rows] = own[:, None, None]
            elif name == "mixpro":
                side = -(-size // self.cell)
                noise = views.uniforms(self.key(name), places[rows], side * side)
                maps[rows] = mixes.cell_map(noise, own, size, self.cell)
            else:
                numbers = views.uniforms(self.key(name), places[rows], 2)
                maps[rows] = mixes.box_map(numbers, own, size)
        return maps

    def forward(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images, target = views["images"], views["target"]
        if self.attends:
            features, attention = mixes.attended(self.model, images)
        else:
            features, attention = self.model(images), None
        logits = self.head(features).float()
        with exact(logits.device), torch.no_grad():
            target = self._mixed(target, views, logits, attention)
        return soft_cross_entropy(logits, target), {"accuracy": accuracy(logits, target)}

    def _mixed(
        self, target: Tensor, views: Mapping[str, Any], logits: Tensor, attention: Tensor | None
    ) -> Tensor:
        """The labels of mixed images, smoothed: [batch, classes]."""
        smooth = self.options.smoothing
        target = (1 - smooth) * target + smooth / target.shape[1]
        if "own" not in views:
            return target
        share = views["own"].mean((1, 2))
        mixed = _between(target, share)
        if attention is None:
            return mixed
        trust = torch.where(
            views["progressive"] > 0, mixes.progress_factor(logits, mixed), views["attend"]
        )
        seen = mixes.attended_share(views["own"], attention)
        return _between(target, share + trust * (seen - share))


def _between(target: Tensor, share: Tensor) -> Tensor:
    """Labels of each sample and of its mirror in the batch, by its own share [batch]."""
    return share[:, None] * target + (1 - share[:, None]) * target.flip(0)


def build(settings: TrainSettings) -> Supervised:
    options = settings.options
    assert isinstance(options, SupervisedOptions)
    if options.mix and settings.batch < 2:
        raise SluiceError(
            f"batch is {settings.batch}, and {', '.join(options.mix)} mixes two images of a batch",
            "use a batch of two or more, or leave options.mix out",
        )
    training = {"drop_path_rate": options.drop_path} if options.drop_path else {}
    encoder = build_classifier(settings, **training)
    for mix in options.mix:
        if mix in mixes.ATTENDING:
            mixes.check_attention(encoder.model, mix)
    return Supervised(settings, encoder)
