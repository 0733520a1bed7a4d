"""Augmentations that are drawn once, stored, and made again to the last bit.

The parameters of a view are rounded to what is stored before anybody sees the view, and are all
that making it takes: neither the numbers they were drawn from nor the code that drew them matter
any more. `COLUMNS` says what is stored, in 9 bytes, and 14 more where views are changed in colour.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from infra.digests import generator
from pretrain import views
from pretrain.data import Batch
from pretrain.reinforce_settings import ReinforceSettings

# Column: type, and numbers of a view. Those of colours are there where they were asked for.
COLUMNS: Mapping[str, tuple[type[np.generic], int]] = {
    "box": (np.uint16, 4),  # the crop's y0, x0, y1, x1 in 65535ths of the image
    "flip": (np.uint8, 1),  # 1: mirrored
    "jitter": (np.float16, 4),  # brightness, contrast, saturation, hue: -1..1, of `views.colour`
    "grey": (np.uint8, 1),  # 1: without colour
    "blur": (np.float16, 1),  # sigma in pixels of a view of 224; 0: none
    "solarize": (np.uint8, 1),  # 1: bright pixels inverted
}
EDGE = 65535
NUMBERS = 16  # of a view, from which its parameters are drawn

Stored = Mapping[str, NDArray[Any]]


def draw(
    settings: ReinforceSettings, uids: Sequence[str], sizes: NDArray[np.float32]
) -> dict[str, NDArray[Any]]:
    """Parameters of `settings.views` views of each image: [images, views] or [images, views, n].

    sizes: height and width [images, 2]. View k of an image depends on (seed, uid, k) alone.
    """
    drawn = [
        generator(settings.seed, "reinforce", uid).random((settings.views, NUMBERS)) for uid in uids
    ]
    numbers = np.concatenate(drawn)
    boxes = views.crop_boxes(
        numbers[:, :4], np.repeat(sizes, settings.views, axis=0), settings.crop_scale
    )
    made: dict[str, NDArray[Any]] = {
        "box": _stored_box(boxes),
        "flip": (numbers[:, 4] < settings.flip).astype(np.uint8),
    }
    if settings.jitter:
        turns = (2 * numbers[:, 6:10] - 1) * settings.jitter
        made["jitter"] = (turns * (numbers[:, 5:6] < settings.jitter_chance)).astype(np.float16)
    if settings.grey:
        made["grey"] = (numbers[:, 10] < settings.grey).astype(np.uint8)
    if settings.blur:
        low, high = views.BLUR_SIGMA
        sigma = low + (high - low) * numbers[:, 12]
        made["blur"] = np.where(numbers[:, 11] < settings.blur, sigma, 0.0).astype(np.float16)
    if settings.solarize:
        made["solarize"] = (numbers[:, 13] < settings.solarize).astype(np.uint8)
    shape = (len(uids), settings.views)
    return {name: values.reshape(*shape, *values.shape[1:]) for name, values in made.items()}


def _stored_box(boxes: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Edges in 0..1 as they are stored, never empty."""
    edges = np.rint(np.clip(boxes, 0, 1) * EDGE).astype(np.int64)
    low = np.minimum(edges[:, :2], EDGE - 1)
    return np.concatenate([low, np.maximum(edges[:, 2:], low + 1)], axis=1).astype(np.uint16)


def render(
    pixels: Tensor, stored: Stored, size: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Tensor:
    """One view of each image as its parameters say: float32 [batch, 3, size, size], normalised.

    pixels: uint8 [batch, canvas, canvas, 3]; stored: parameters [batch] or [batch, n]. On a CPU a
    view depends on its own image alone, whatever the batch and the number of threads.
    """
    boxes = stored["box"].astype(np.float32) / np.float32(EDGE)
    sigma = stored["blur"].astype(np.float32) * size / 224 if "blur" in stored else None
    images = views.crop(pixels, boxes, size, stored["flip"] > 0, sigma)
    if "jitter" in stored:
        turns = (stored["jitter"].astype(np.float32) + 1) / 2
        always = np.zeros((len(turns), 1), np.float32)  # below any chance: it is drawn already
        images = views.colour(images, np.concatenate([always, turns], 1), 1.0, 1.0)
    if "grey" in stored:
        images = views.grey(images, stored["grey"] > 0)
    if "solarize" in stored:
        images = views.solarize(images, stored["solarize"] > 0)
    return views.normalize(images, mean, std)


def pick(batch: Batch, name: str, key: tuple[Any, ...]) -> Stored:
    """Of each sample one of its views in the columns `name`, by random numbers of its position.

    The next time a sample comes it may be the same view again.
    """
    rows = [fields[name] for fields in batch.columns]
    numbers = views.uniforms(key, batch.places, 1)[:, 0]
    return chosen(
        rows, [int(each * len(row["box"])) for each, row in zip(numbers, rows, strict=True)]
    )


def chosen(rows: Sequence[Stored], numbers: Sequence[int]) -> Stored:
    """Of each row, [views, ...] by column, the view of that number: [batch, ...] by column."""
    return {
        name: np.stack([row[name][number] for row, number in zip(rows, numbers, strict=True)])
        for name in rows[0]
    }


def whole(count: int) -> Stored:
    """Parameters of so many views that are the whole image."""
    return {
        "box": np.tile(np.asarray([0, 0, EDGE, EDGE], np.uint16), (count, 1)),
        "flip": np.zeros(count, np.uint8),
    }
