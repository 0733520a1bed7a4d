"""CLIP: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
Supervision" (arXiv:2103.00020), on any model that open_clip can build.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pretrain.backbones import ClipParts, build_clip
from pretrain.data import Batch
from pretrain.distributed import before, gather
from pretrain.objectives.base import Comparing, exact
from pretrain.options.clip import ClipOptions
from pretrain.pairs import Pairs
from pretrain.settings import TrainSettings

MAX_LOGIT_SCALE = math.log(100)
Negatives = Literal["global", "local_exact"]


class Similarities(NamedTuple):
    """Logits of a batch, or of those of its rows that this process takes.

    images: of images to texts, texts: of texts to images, [rows, batch] each; own: int64 [rows],
    the column of each row's own partner.
    """

    images: Tensor
    texts: Tensor
    own: Tensor


def similarities(
    image: Tensor, text: Tensor, scale: Tensor, negatives: Negatives = "global"
) -> Similarities:
    """Of L2-normalised [n, dim] of each process; scale: the factor itself, not its logarithm.

    global: all rows, [batch, batch], the same in every process; local_exact: this process's own
    rows, [n, batch]. The columns are of all processes, and have gradients: with those of the
    rows alone, the mean over processes would be no gradient of any loss.
    """
    images, texts = gather(image), gather(text)
    if negatives == "global":
        logits = scale * images @ texts.T
        return Similarities(logits, logits.T, torch.arange(len(logits), device=logits.device))
    own = torch.arange(len(image), device=image.device) + before(len(image))
    return Similarities(scale * image @ texts.T, scale * text @ images.T, own)


def contrast(found: Similarities, same: Tensor | None = None) -> Tensor:
    """Symmetric cross-entropy against each row's own partner.

    same: bool [rows, batch], pairs that count as positives beside it; each row's positives share
    its target evenly.
    """
    target = found.own if same is None else same.float() / same.sum(1, keepdim=True)
    loss = functional.cross_entropy(found.images, target)
    return (loss + functional.cross_entropy(found.texts, target)) / 2


def clip_loss(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    same: Tensor | None = None,
    negatives: Negatives = "global",
) -> tuple[Tensor, Tensor]:
    """CLIP's loss, see `similarities` and `contrast`; also the logits of images to texts.

    With local_exact the loss is that of this process's rows; its mean over processes is CLIP's.
    """
    found = similarities(image, text, scale, negatives)
    return contrast(found, same), found.images


class Clip(Pairs, Comparing):
    """Two towers and a learned temperature; the logit scale stays within 0..ln 100."""

    def __init__(self, settings: TrainSettings, parts: ClipParts) -> None:
        super().__init__(settings, parts)
        assert isinstance(settings.options, ClipOptions)
        self.options = settings.options

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        captions = None
        if self.options.same_caption == "positive":
            captions = caption_keys(self.captions(batch)).to(device)
        return {**super().views(batch, device), "captions": captions}

    def similar(self, embeddings: list[tuple[Tensor, Tensor]]) -> list[Similarities]:
        """Similarities of each width of the embeddings."""
        scale, negatives = self.model.logit_scale.exp(), self.options.negatives
        return [similarities(image, text, scale, negatives) for image, text in embeddings]

    def contrastive(
        self, views: Mapping[str, Any], found: list[Similarities]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of these similarities, and figures."""
        own, same = found[-1].own, None
        if views["captions"] is not None:
            keys = gather(views["captions"])
            same = keys[own][:, None] == keys
        loss, figures = self.mean([contrast(each, same) for each in found])
        right = found[-1].images.argmax(1) == own
        scale = self.model.logit_scale.detach().exp()
        figures |= self.told(views)
        return loss, {"logit_scale": scale, "accuracy": right.float().mean(), **figures}

    def compare(
        self, features: tuple[Tensor, ...], views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with exact(features[0].device):
            return self.contrastive(views, self.similar(self.nested(features)))

    def after_update(self, progress: float) -> None:
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)


def caption_keys(captions: Sequence[str]) -> Tensor:
    """int64 [captions], equal where captions are, in any process."""
    digests = [
        hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
        for text in captions
    ]
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests])


def build(settings: TrainSettings) -> Clip:
    return Clip(settings, build_clip(settings))
