"""CLIP: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
Supervision" (arXiv:2103.00020), on any model that open_clip can build.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pretrain import views
from pretrain.backbones import ClipParts, build_clip, clip_files
from pretrain.data import Batch
from pretrain.objectives.base import Objective, exact
from pretrain.options.clip import ClipOptions
from pretrain.settings import TrainSettings

MAX_LOGIT_SCALE = math.log(100)
KEPT_CAPTIONS = 2**15  # whose tokens are held


def clip_loss(
    image: Tensor, text: Tensor, scale: Tensor, same: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Symmetric cross-entropy over the similarities of a batch; also the logits.

    image, text: L2-normalised [batch, dim]; scale: the factor itself, not its logarithm.
    same: bool [batch, batch], pairs that count as positives beside the diagonal; each row's
    positives share its target evenly.
    """
    logits = scale * image @ text.T
    if same is None:
        target = torch.arange(len(logits), device=logits.device)
        loss = functional.cross_entropy(logits, target)
        return (loss + functional.cross_entropy(logits.T, target)) / 2, logits
    shares = same.float() / same.sum(1, keepdim=True)
    loss = functional.cross_entropy(logits, shares)
    return (loss + functional.cross_entropy(logits.T, shares)) / 2, logits


class Clip(Objective):
    """Two towers and a learned temperature; the logit scale stays within 0..ln 100."""

    def __init__(self, settings: TrainSettings, parts: ClipParts) -> None:
        super().__init__(settings)
        assert isinstance(settings.options, ClipOptions)
        self.options = settings.options
        self.model = parts.model
        self.parts = parts
        self._tokens: dict[str, Tensor] = {}

    def _tokenize(self, captions: list[str]) -> Tensor:
        """Token ids [batch, context]; the tokens of recent captions are kept."""
        fresh = list(dict.fromkeys(text for text in captions if text not in self._tokens))
        if len(self._tokens) + len(fresh) > KEPT_CAPTIONS:
            self._tokens, fresh = {}, list(dict.fromkeys(captions))
        if fresh:
            self._tokens.update(zip(fresh, self.parts.tokenizer(fresh), strict=True))
        return torch.stack([self._tokens[text] for text in captions])

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        numbers = views.uniforms(self.key("view"), batch.places, 12)
        boxes = views.crop_boxes(numbers[:, :4], batch.sizes, self.options.crop_scale)
        pixels = torch.from_numpy(batch.images).to(device)
        mirrored = numbers[:, 4] < self.options.flip if self.options.flip else None
        images = views.crop(pixels, boxes, self.settings.image_size, mirrored)
        if self.options.jitter:
            images = views.colour(images, numbers[:, 5:10], self.options.jitter, 0.8)
        if self.options.grey:
            images = views.grey(images, numbers[:, 10] < self.options.grey)
        if self.options.invert:
            images = views.solarize(images, numbers[:, 11] < self.options.invert, threshold=0.0)
        tokens = self._tokenize(batch.captions)
        if self.options.drop_tokens:
            drawn = views.uniforms(self.key("token"), batch.places, tokens.shape[1])
            tokens = views.drop_tokens(tokens, drawn, self.options.drop_tokens)
        same = None
        if self.options.same_caption == "positive":
            captions = np.asarray(batch.captions)
            same = torch.from_numpy(captions[:, None] == captions[None]).to(device)
        return {
            "images": views.normalize(images, self.parts.mean, self.parts.std),
            "tokens": tokens.to(device),
            "same": same,
        }

    def forward(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        image = self.model.encode_image(views["images"], normalize=True).float()
        text = self.model.encode_text(views["tokens"], normalize=True).float()
        scale = self.model.logit_scale.exp()
        with exact(image.device):
            loss, logits = clip_loss(image, text, scale, views["same"])
        right = logits.argmax(1) == torch.arange(len(logits), device=logits.device)
        return loss, {"logit_scale": scale, "accuracy": right.float().mean()}

    def after_update(self, progress: float) -> None:
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

    def files(self) -> Iterator[tuple[str, bytes]]:
        return clip_files(self.parts)


def build(settings: TrainSettings) -> Clip:
    return Clip(settings, build_clip(settings))
