"""LOOK: Feng et al. 2021, "Rethinking supervised pre-training for better downstream transferring"
(arXiv:2110.06014): an image is to have the class of most of its nearest neighbours, itself left
out. A class may so fall into several groups, which a linear classifier would push into one.

Written from the paper's abstract and reviews of it; the paper was not at hand. The weighted vote of
the neighbours and its error as the loss are theirs. Ours are: the queue and the slow network that
fills it, as in MoCo (arXiv:1911.05722), the nearest sample of the own class as one more neighbour
where none is among them, without which such an image could not learn, and all sizes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pretrain.augment import Recipe, augment
from pretrain.backbones import IMAGENET_MEAN, IMAGENET_STD, TimmEncoder, build_encoder
from pretrain.classifier import build_classifier, output_width, targets
from pretrain.data import Batch
from pretrain.distributed import gather
from pretrain.heads import projection
from pretrain.objectives.albef_itc import enqueue
from pretrain.objectives.base import Objective, exact
from pretrain.options.look import LookOptions
from pretrain.settings import TrainSettings
from pretrain.teacher import follow, take

NOBODY = -1  # in a place of the queue that is still empty


def look_loss(
    cosines: Tensor, alike: Tensor, others: Tensor, neighbours: int, temperature: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """-log of the share of its neighbours' votes that goes to a sample's own class; also figures.

    A neighbour votes with exp(cosine / temperature). cosines: float [batch, keys]; alike: bool,
    same class; others: bool, a key that is there and not of the sample itself. The mean over all
    samples, where one that is alone of its class counts 0.
    """
    never = torch.finfo(cosines.dtype).min
    apart = cosines.detach().masked_fill(~others, never)
    nearest = apart.topk(min(neighbours, apart.shape[1]), dim=1).indices
    alike = alike & others
    lonely = ~alike.any(1)
    closest = apart.masked_fill(~alike, never).argmax(1, keepdim=True)
    voting = torch.zeros_like(alike).scatter(1, nearest, True).scatter(1, closest, True) & others
    votes = cosines / temperature
    every = votes.masked_fill(~voting, never).logsumexp(1)
    own = votes.masked_fill(~(voting & alike), never).logsumexp(1)
    errors = torch.where(lonely, 0.0, every - own)
    return errors.mean(), {
        "vote": ((-errors.detach()).exp() * ~lonely).mean(),
        "accuracy": alike.gather(1, apart.argmax(1, keepdim=True)).float().mean(),
        "lonely": lonely.float().mean(),
    }


class Look(Objective):
    """A timm network, its slow average, and a queue of what that made of earlier batches.

    The queue is the same in all processes. It knows whose each embedding is: left out is not only
    the image of this step, but also what was made of it in an earlier pass over the data.
    """

    queue: Tensor
    queued_class: Tensor
    queued_who: Tensor
    place: Tensor

    def __init__(self, settings: TrainSettings, encoder: TimmEncoder, slow: TimmEncoder) -> None:
        super().__init__(settings)
        assert isinstance(settings.options, LookOptions)
        self.options = options = settings.options
        self.encoder, self.model, self.slow = encoder, encoder.model, slow.model
        sizes = (output_width(self.model), options.hidden, options.dim)
        self.head, self.slow_head = projection(*sizes), projection(*sizes)
        take(self.slow, self.model)
        take(self.slow_head, self.head)
        self.register_buffer("queue", torch.zeros(options.queue, options.dim))
        self.register_buffer("queued_class", torch.full((options.queue,), NOBODY))
        self.register_buffer("queued_who", torch.full((options.queue, 2), NOBODY))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        options = self.options
        recipe = Recipe(options.crop_scale, options.flip, options.jitter)
        who = np.stack([batch.sources, batch.ids], axis=1)
        return {
            "images": augment(batch, device, self.key("view"), self.settings.image_size, recipe),
            "class": targets(options, batch, device).argmax(1),
            "who": torch.from_numpy(who).to(device),
        }

    def forward(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images, options = views["images"], self.options
        found = normalize(self.head(self.model(images)).float(), dim=-1)
        with torch.no_grad():
            slow = normalize(self.slow_head(self.slow(images)).float(), dim=-1)
        fresh = tuple(gather(each) for each in (slow, views["class"], views["who"]))
        queues = (self.queue, self.queued_class, self.queued_who)
        keys, classes, who = (torch.cat(pair) for pair in zip(fresh, queues, strict=True))
        others = (classes != NOBODY) & (views["who"][:, None] != who).any(-1)
        alike = views["class"][:, None] == classes
        with exact(images.device):
            cosines = found @ keys.T
            loss, figures = look_loss(
                cosines, alike, others, options.neighbours, options.temperature
            )
        for queue, values in zip(queues, fresh, strict=True):
            enqueue(queue, values, self.place)
        self.place.add_(len(fresh[0])).remainder_(options.queue)
        spread = found.detach().std(0, correction=0).mean() * options.dim**0.5
        return loss, {**figures, "spread": spread}

    def after_update(self, progress: float) -> None:
        follow(self.slow, self.model, self.options.momentum)
        follow(self.slow_head, self.head, self.options.momentum)

    def files(self) -> Iterator[tuple[str, bytes]]:
        return self.encoder.files(IMAGENET_MEAN, IMAGENET_STD)


def build(settings: TrainSettings) -> Look:
    return Look(settings, build_classifier(settings), build_encoder(settings))
