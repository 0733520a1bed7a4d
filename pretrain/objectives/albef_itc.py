"""The image-text contrast of ALBEF: Li et al. 2021, "Align before Fuse" (arXiv:2107.07651).

Slow averages of the two towers embed the batch, too. Their embeddings, and those of earlier
batches in a queue, are what images and texts are compared with; how alike the slow towers find
them is a part of the target (momentum distillation). ALBEF's other two losses need its fusion
encoder, which an open_clip model does not have.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import normalize

from infra.digests import generator
from pretrain.backbones import ClipParts, build_clip
from pretrain.distributed import before, gather
from pretrain.objectives.base import exact
from pretrain.options.albef_itc import AlbefItcOptions
from pretrain.pairs import Pairs
from pretrain.settings import TrainSettings
from pretrain.teacher import follow, never_drops
from pretrain.texts import unit_text


def distilled(
    queries: Tensor, slow: Tensor, keys: Tensor, own: Tensor, scale: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of queries against alpha * what the slow tower finds + (1 - alpha) * their
    own; also the logits [rows, keys].

    queries, slow: of the same samples by the trained and by the slow tower, [rows, dim]; keys: of
    the other slow tower, [keys, dim]; all L2-normalised. own: int64 [rows], each row's own key.
    scale: 1 / temperature.
    """
    logits = scale * queries @ keys.T
    with torch.no_grad():
        found = (scale * slow @ keys.T).softmax(1)
        target = alpha * found + (1 - alpha) * functional.one_hot(own, len(keys))
    return functional.cross_entropy(logits, target), logits


@torch.no_grad()
def enqueue(queue: Tensor, fresh: Tensor, place: Tensor) -> None:
    """Write `fresh` [n, dim] into `queue` [size, dim] from `place` (int64, 0-d) on, around its end;
    of more than it holds the last ones stay.
    """
    kept = torch.arange(max(len(fresh) - len(queue), 0), len(fresh), device=queue.device)
    queue[(place + kept) % len(queue)] = fresh[kept]


class AlbefItc(Pairs):
    """Trained towers, which are kept, their slow averages, and a queue of each kind.

    The queues are the same in all processes: each takes in the embeddings of all of them.
    """

    image_queue: Tensor
    text_queue: Tensor
    place: Tensor

    def __init__(self, settings: TrainSettings, parts: ClipParts) -> None:
        super().__init__(settings, parts)
        assert isinstance(settings.options, AlbefItcOptions)
        self.options = settings.options
        self.slow = copy.deepcopy(self.model).requires_grad_(False)
        never_drops(self.slow)
        width = int(parts.config["embed_dim"])
        for name in ("image_queue", "text_queue"):
            drawn = generator(*self.key(name)).standard_normal((self.options.queue, width))
            self.register_buffer(name, normalize(torch.from_numpy(drawn).float(), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def forward(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        ((image, text),) = self.embed(views)
        with torch.no_grad():
            slow_image = self.slow.encode_image(views["images"], normalize=True).float()
            slow_text = unit_text(self.slow, views["tokens"]).float()
        images, texts = gather(slow_image), gather(slow_text)
        own = torch.arange(len(image), device=image.device) + before(len(image))
        scale, alpha = self.model.logit_scale.exp(), self.alpha(progress)
        with exact(image.device):
            text_keys = torch.cat([texts, self.text_queue])
            image_keys = torch.cat([images, self.image_queue])
            first, logits = distilled(image, slow_image, text_keys, own, scale, alpha)
            second, _ = distilled(text, slow_text, image_keys, own, scale, alpha)
        enqueue(self.image_queue, images, self.place)
        enqueue(self.text_queue, texts, self.place)
        self.place.add_(len(images)).remainder_(self.options.queue)
        right = logits.argmax(1) == own
        return (first + second) / 2, {
            "logit_scale": scale.detach(),
            "accuracy": right.float().mean(),
            "alpha": torch.tensor(alpha, device=image.device),
            **self.told(views),
        }

    def alpha(self, progress: float) -> float:
        """The slow towers' share of the targets, from 0 on."""
        warmup = self.options.alpha_warmup
        return self.options.alpha * (min(progress / warmup, 1.0) if warmup else 1.0)

    def after_update(self, progress: float) -> None:
        low, high = self.options.temperature
        with torch.no_grad():
            self.model.logit_scale.clamp_(-math.log(high), -math.log(low))
        follow(self.slow, self.model, self.options.momentum)


def build(settings: TrainSettings) -> AlbefItc:
    options = settings.options
    assert isinstance(options, AlbefItcOptions)
    return AlbefItc(
        settings, build_clip(settings, init_logit_scale=-math.log(options.init_temperature))
    )
