"""SiT: Atito et al. 2021, "SiT: Self-supervised vIsion Transformer" (arXiv:2104.03602): groups of
patches are overwritten (GMML, arXiv:2205.14986), and a network rebuilds their pixels; what it makes
of an image is told from what it makes of others.

Written from descriptions of the paper, which was not at hand. From memory, and not checked: the
momentum, the temperature, the learning rate and the share of foreign patches. Ours are: the layers
of the projection, that pixels are rebuilt as the view has them, its colours changed, and that all
images have equally many overwritten patches. The first version of the paper learns the weights of
its tasks and gives each a token of its own; here weights are options, and the tasks share one
vector.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from infra.digests import generator
from infra.errors import SluiceError
from pretrain import masks
from pretrain import views as numbers
from pretrain.augment import Recipe, augment
from pretrain.backbones import IMAGENET_MEAN, IMAGENET_STD, TimmEncoder, build_encoder
from pretrain.classifier import linear, output_width
from pretrain.data import Batch
from pretrain.distributed import before, gather
from pretrain.heads import projection
from pretrain.masked_images import enlarge, feature_map
from pretrain.objectives.base import Comparing, exact
from pretrain.options.sit import SitOptions
from pretrain.settings import TrainSettings
from pretrain.teacher import cosine, follow, take

TURNS = 4
ACROSS = 14  # groups of patches are cut from about so many cells of a side; 224 / 16 as published


def rebuilding_error(predicted: Tensor, images: Tensor, hidden: Tensor) -> Tensor:
    """Mean absolute error over the overwritten pixels of each image, [batch].

    predicted, images: [batch, channels, height, width]; hidden: bool [batch, height, width].
    """
    error = ((predicted - images).abs() * hidden[:, None]).sum((1, 2, 3))
    return error / (hidden.sum((1, 2)) * images.shape[1])


def contrast(queries: Tensor, keys: Tensor, own: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding each query's own key among all by its cosine.

    queries: [batch, dim]; keys: [keys, dim], both L2-normalised; own: int64 [batch].
    """
    return functional.cross_entropy(queries @ keys.T / temperature, own)


def turn(images: Tensor, turns: Tensor) -> Tensor:
    """Square images, each turned counterclockwise by so many quarters; turns: int64 [batch]."""
    for quarter in range(1, TURNS):
        chosen = (turns == quarter)[:, None, None, None]
        images = torch.where(chosen, images.rot90(quarter, (2, 3)), images)
    return images


def overwrite(images: Tensor, noise: Tensor, hidden: Tensor, foreign: Tensor) -> Tensor:
    """Images with the hidden pixels replaced: by those of the image before it in the batch (of
    this process) where `foreign`, else by noise.

    images, noise: [batch, 3, side, side]; hidden, foreign: bool [batch, side, side].
    """
    other = images.roll(1, 0)
    filling = torch.where(foreign[:, None], other, noise)
    return torch.where(hidden[:, None], filling, images)


class Sit(Comparing):
    """A timm network that is trained, and a slow average of it that sees whole views."""

    field: Tensor

    def __init__(self, settings: TrainSettings, encoder: TimmEncoder, slow: TimmEncoder) -> None:
        super().__init__(settings)
        assert isinstance(settings.options, SitOptions)
        self.options, size = settings.options, settings.image_size
        self.encoder, self.model, self.slow = encoder, encoder.model, slow.model
        width, stride = self._probe()
        self.cells = size // _cell(self.model, size)
        self.count = max(round(self.cells**2 * self.options.corrupt), 1)
        self.decoder = nn.Sequential(
            nn.Conv2d(width, width, 1),
            nn.GELU(),
            nn.Conv2d(width, stride**2 * 3, 1),
            nn.PixelShuffle(stride),
        )
        sizes = (output_width(self.model), self.options.hidden, self.options.dim)
        self.head, self.slow_head = projection(*sizes), projection(*sizes)
        self.turned = linear(sizes[0], TURNS) if self.options.rotation else None
        take(self.slow, self.model)
        take(self.slow_head, self.head)
        drawn = generator(*self.key("noise")).standard_normal((3, 2 * size, 2 * size))
        self.register_buffer("field", torch.from_numpy(drawn).float(), persistent=False)

    @torch.no_grad()
    def _probe(self) -> tuple[int, int]:
        """Width and stride of the network's features, by a pass of one image.

        Raises SluiceError where they are no square map from which pixels could be rebuilt.
        """
        size, training = self.settings.image_size, self.model.training
        try:
            self.model.eval()
            output = self.model.forward_features(torch.zeros(1, 3, size, size))
            found = feature_map(self.model, output)
            if found.ndim != 4 or found.shape[2] != found.shape[3] or size % found.shape[2]:
                raise ValueError(f"its output is of shape {list(found.shape[1:])}")
            self.model.forward_head(output)
        except (AttributeError, ValueError, TypeError, RuntimeError, AssertionError) as error:
            raise SluiceError(
                f"sit cannot train a {type(self.model).__name__}: it rebuilds pixels from a square "
                f"map of features ({error})",
                "use a vision transformer of timm (vit_tiny_patch16_224, ...)",
            ) from error
        finally:
            self.model.train(training)
        return found.shape[1], size // found.shape[2]

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        """Of each name the first view of every image, then the second."""
        images = torch.cat([self._view(batch, device, view) for view in range(2)])
        found: dict[str, Any] = {}
        if self.options.rotation:
            drawn = [numbers.uniforms(self.key(f"turn {i}"), batch.places, 1) for i in range(2)]
            turns = torch.from_numpy(np.concatenate(drawn)[:, 0] * TURNS).long().to(device)
            images, found["turns"] = turn(images, turns), turns
        cells = [torch.from_numpy(each).to(device) for each in self._masks(batch)]
        hidden, foreign = (enlarge(each, *images.shape[2:]).chunk(2) for each in cells)
        parts = zip(images.chunk(2), hidden, foreign, strict=True)
        corrupted = [
            overwrite(part, self._noise(batch, view), own, other)
            for view, (part, own, other) in enumerate(parts)
        ]
        layout = torch.channels_last
        return found | {
            "images": images.contiguous(memory_format=layout),
            "corrupted": torch.cat(corrupted).contiguous(memory_format=layout),
            "hidden": cells[0],
        }

    def _view(self, batch: Batch, device: torch.device, view: int) -> Tensor:
        options = self.options
        recipe = Recipe(
            options.crop_scale,
            options.flip,
            options.jitter,
            grey=options.grey,
            blur=options.blur[view],
            solarize=options.solarize[view],
        )
        return augment(batch, device, self.key(f"view {view}"), self.settings.image_size, recipe)

    def _masks(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Which cells are hidden, and which by another image if so: bool [2 * batch, side, side].

        One image alone has no other: noise hides all of its.
        """
        images, grid = 2 * len(batch.places), (self.cells, self.cells)
        found: list[np.ndarray] = []
        others = round(self.cells**2 * self.options.foreign) if len(batch.places) > 1 else 0
        for name, count in (("hidden", self.count), ("foreign", others)):
            draw = masks.keyed(lambda *parts, n=name: self.key(n, *parts), batch.places, 2)
            found.append(masks.block_masks(draw, np.full(images, count, np.int64), grid))
        return found[0], found[1]

    def _noise(self, batch: Batch, view: int) -> Tensor:
        """Standard normal [batch, 3, size, size]: windows of one field at random places."""
        size = self.settings.image_size
        drawn = numbers.uniforms(self.key(f"window {view}"), batch.places, 2)
        starts = (drawn * (size + 1)).astype(np.int64)
        return torch.stack([self.field[:, y : y + size, x : x + size] for y, x in starts])

    def features(self, views: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Queries and keys [batch, 2, dim], errors [batch, 2], outputs for the turns."""
        images, samples = views["images"], len(views["images"]) // 2
        output = self.model.forward_features(views["corrupted"])
        vector = self.model.forward_head(output)
        predicted = self.decoder(feature_map(self.model, output)).float()
        queries = functional.normalize(self.head(vector).float(), dim=-1)
        with torch.no_grad():
            keys = functional.normalize(self.slow_head(self.slow(images)).float(), dim=-1)
        hidden = enlarge(views["hidden"], *images.shape[2:])
        made = [queries, keys, rebuilding_error(predicted, images, hidden)]
        if self.turned is not None:
            made.append(self.turned(vector).float())
        return tuple(each.unflatten(0, (2, samples)).transpose(0, 1) for each in made)

    def compare(
        self, features: tuple[Tensor, ...], views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        queries, keys, errors, *turned = features
        device = queries.device
        own = torch.arange(len(queries), device=device) + before(len(queries))
        everyones = gather(keys.detach().contiguous())
        with exact(device):
            halves = [
                contrast(queries[:, view], everyones[:, 1 - view], own, self.options.temperature)
                for view in range(2)
            ]
            nearest = (queries[:, 0] @ everyones[:, 1].T).argmax(1)
        rebuilding, told = errors.mean(), torch.stack(halves).mean()
        loss = self.options.reconstruction * rebuilding + self.options.contrast * told
        flat = queries.detach().flatten(0, 1)
        figures = {
            "reconstruction": rebuilding.detach(),
            "contrast": told.detach(),
            "accuracy": (nearest == own).float().mean(),
            "spread": flat.std(0, correction=0).mean() * flat.shape[1] ** 0.5,
        }
        for outputs in turned:
            logits, turns = outputs.transpose(0, 1).flatten(0, 1), views["turns"]
            wrong = functional.cross_entropy(logits, turns)
            loss = loss + self.options.rotation * wrong
            figures["rotation"] = wrong.detach()
            figures["rotation_accuracy"] = (logits.argmax(1) == turns).float().mean()
        return loss, figures

    def after_update(self, progress: float) -> None:
        keep = cosine(self.options.momentum, 1.0, progress)
        follow(self.slow, self.model, keep)
        follow(self.slow_head, self.head, keep)

    def files(self) -> Iterator[tuple[str, bytes]]:
        return self.encoder.files(IMAGENET_MEAN, IMAGENET_STD)


def _cell(model: Any, size: int) -> int:
    """Pixels of a side of a cell: whole patches of the network, where its patches do not overlap.

    Raises SluiceError where the image has but one.
    """
    patch: Any = getattr(getattr(model, "patch_embed", None), "patch_size", 1)
    side = patch[0] if isinstance(patch, tuple) else patch
    unit = side if isinstance(side, int) and size % side == 0 else 1
    fitting = [cell for cell in range(unit, size, unit) if size % cell == 0]
    if not fitting:
        raise SluiceError(
            f"an image of {size} pixels is one patch of {unit}: sit has nothing to rebuild it from",
            "use a larger image_size or smaller patches",
        )
    return min(fitting, key=lambda cell: (abs(cell - size / ACROSS), cell))


def build(settings: TrainSettings) -> Sit:
    return Sit(settings, build_encoder(settings), build_encoder(settings))
