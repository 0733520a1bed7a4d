"""One random view of each image of a batch: crop, mirror, blur, colours, solarisation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra.digests import generator
from pretrain import views
from pretrain.backbones import IMAGENET_MEAN, IMAGENET_STD
from pretrain.data import Batch
from pretrain.declare import Range

WHOLE = (1.0, 1.0)


@dataclass(frozen=True)
class Recipe:
    """Chances and strengths. scale: area share of the crop; (1, 1) is the whole image.

    jitter: strength of the colour jitter, applied with the chance `jitter_chance`. mean, std: what
    the network wants its images normalised by.
    """

    scale: Range = WHOLE
    flip: float = 0.0
    jitter: float = 0.0
    jitter_chance: float = 0.8
    grey: float = 0.0
    blur: float = 0.0
    solarize: float = 0.0
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def augment(
    batch: Batch, device: torch.device, key: tuple[Any, ...], size: int, recipe: Recipe
) -> Tensor:
    """float32 [batch, 3, size, size], normalised; random numbers of `key` and of the position."""
    numbers = views.uniforms(key, batch.places, 16)
    boxes = views.crop_boxes(numbers[:, :4], batch.sizes, recipe.scale)
    if recipe.scale == WHOLE:
        boxes = np.tile(np.asarray([0.0, 0.0, 1.0, 1.0]), (len(boxes), 1))
    pixels = torch.from_numpy(batch.images).to(device)
    return view(batch, pixels, numbers, boxes, numbers[:, 4] < recipe.flip, size, recipe)


def view(
    batch: Batch,
    pixels: Tensor,
    numbers: np.ndarray,
    boxes: np.ndarray,
    mirrored: np.ndarray,
    size: int,
    recipe: Recipe,
) -> Tensor:
    """As `augment`, of given crops: boxes [batch, 4] as y0, x0, y1, x1; mirrored: bool [batch].

    pixels: the images of the batch, on the device that cuts them. numbers: uniform [batch, 16], of
    which those from the sixth on are used.
    """
    low, high = (sigma * size / 224 for sigma in views.BLUR_SIGMA)
    sigma = None
    if recipe.blur:
        sigma = np.where(numbers[:, 11] < recipe.blur, low + (high - low) * numbers[:, 12], 0.0)
    images = views.crop(pixels, boxes, size, mirrored, sigma)
    if recipe.jitter:
        strength = recipe.jitter * batch.strength
        images = views.colour(images, numbers[:, 5:10], strength, recipe.jitter_chance)
    if recipe.grey:
        images = views.grey(images, numbers[:, 10] < recipe.grey)
    if recipe.solarize:
        images = views.solarize(images, numbers[:, 13] < recipe.solarize)
    return views.normalize(images, recipe.mean, recipe.std)


def betas(key: Sequence[Any], places: np.ndarray, alpha: float) -> np.ndarray:
    """Numbers of Beta(alpha, alpha), float32 [batch]; each depends on (key, place) alone."""
    drawn = [generator(*key, int(place)).beta(alpha, alpha) for place in places]
    return np.asarray(drawn, dtype=np.float32)
