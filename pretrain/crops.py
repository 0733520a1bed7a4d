"""Multi-crop views of self-distillation: two large crops and several small ones of each image.

Caron et al. 2021 (arXiv:2104.14294): the second large crop is rarely blurred and sometimes
solarised, so that the two differ in more than their place.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pretrain import views
from pretrain.augment import Recipe, view
from pretrain.backbones import IMAGENET_MEAN, IMAGENET_STD
from pretrain.data import Batch
from pretrain.options.dino import DinoOptions
from pretrain.settings import TrainSettings

JITTER_CHANCE, GREY_CHANCE = 0.8, 0.2
BLUR_CHANCE, SOLARIZE_CHANCE = (1.0, 0.1), (0.0, 0.2)  # of the two global crops
LOCAL_BLUR_CHANCE = 0.5
Key = Callable[..., tuple[object, ...]]  # an objective's `key`


def local_size(settings: TrainSettings) -> int:
    """Pixels of a local crop: as set, else half the image size in whole patches."""
    assert isinstance(settings.options, DinoOptions)
    patch = settings.patch_size or 1
    return settings.options.local_size or max(settings.image_size // 2 // patch, 1) * patch


def global_crops(batch: Batch, pixels: Tensor, key: Key, size: int, options: DinoOptions) -> Tensor:
    """[2 * batch, 3, size, size]: the first crop of every image, then the second.

    pixels: the images of `batch`, on the device that cuts them.
    """
    chances = zip(BLUR_CHANCE, SOLARIZE_CHANCE, strict=True)
    recipes = [_recipe(options, options.global_scale, *chance) for chance in chances]
    crops = [
        _crop(batch, pixels, key(f"global {i}"), size, recipe) for i, recipe in enumerate(recipes)
    ]
    return torch.cat(crops)


def local_crops(
    batch: Batch, pixels: Tensor, key: Key, size: int, options: DinoOptions
) -> Tensor | None:
    """[local_crops * batch, 3, size, size], or None where there are none."""
    recipe = _recipe(options, options.local_scale, LOCAL_BLUR_CHANCE)
    crops = [
        _crop(batch, pixels, key(f"local {i}"), size, recipe) for i in range(options.local_crops)
    ]
    return torch.cat(crops) if crops else None


def plain_global_crops(
    batch: Batch, pixels: Tensor, key: Key, size: int, options: DinoOptions
) -> Tensor:
    """The cuts of `global_crops` and their mirroring, at another size and undistorted."""
    crops: list[Tensor] = []
    for i in range(2):
        numbers = views.uniforms(key(f"global {i}"), batch.places, 16)
        boxes = views.crop_boxes(numbers[:, :4], batch.sizes, options.global_scale)
        crops.append(views.crop(pixels, boxes, size, numbers[:, 4] < options.flip))
    return views.normalize(torch.cat(crops), IMAGENET_MEAN, IMAGENET_STD)


def _crop(
    batch: Batch, pixels: Tensor, key: tuple[object, ...], size: int, recipe: Recipe
) -> Tensor:
    numbers = views.uniforms(key, batch.places, 16)
    boxes = views.crop_boxes(numbers[:, :4], batch.sizes, recipe.scale)
    return view(batch, pixels, numbers, boxes, numbers[:, 4] < recipe.flip, size, recipe)


def _recipe(
    options: DinoOptions, scale: tuple[float, float], blur: float, solarize: float = 0.0
) -> Recipe:
    return Recipe(scale, options.flip, options.jitter, JITTER_CHANCE, GREY_CHANCE, blur, solarize)
