"""Images resampled to other sizes, antialiased bicubic as Pillow's but rounded once.

Of each side a new pixel is a weighted sum of a few old ones. A GPU multiplies a batch by matrices
of these weights; a processor adds up only what is not zero in them.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

Taps = tuple[Tensor, Tensor]  # see `taps`


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -0.5, as Pillow has it."""
    x = distance.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def taps(low: Tensor, high: Tensor, source: int, target: int) -> Taps:
    """Antialiased bicubic resampling of the span low..high (0..1, [batch]) of `source` pixels.

    The first pixel that counts, int64 [batch, target], and the weights of it and of those behind
    it, [batch, target, taps]; pixels outside of the span have the weight 0.
    """
    scale = (high - low)[:, None] * source / target
    centre = low[:, None] * source + scale * (torch.arange(target, device=low.device) + 0.5)
    stretch = scale.clamp(min=1.0)
    count = min(4 * math.ceil(max(source / target, 1.0) + 0.25), source)
    first = (centre - 2 * stretch).floor().long().clamp(0, source - count)
    pixel = first[..., None] + torch.arange(count, device=low.device) + 0.5
    weights = _cubic((pixel - centre[..., None]) / stretch[..., None])
    start, end = (low * source).floor(), (high * source).ceil()
    inside = (pixel > start[:, None, None]) & (pixel < end[:, None, None])
    weights = weights * inside
    return first, weights / weights.sum(-1, keepdim=True)


@lru_cache(maxsize=256)
def _whole(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """`taps` of a whole side, for one image."""
    first, weights = taps(torch.zeros(1), torch.ones(1), source, target)
    return first.numpy(), weights.numpy()


def squeeze(pixels: np.ndarray, size: int) -> np.ndarray:
    """A whole image resampled to a square: uint8 [h, w, 3] -> uint8 [size, size, 3]."""
    from pretrain.resample_kernels import resample  # numba is imported when it is first needed

    target = np.empty((1, size, size, 3), np.float32)
    rows, columns = (_whole(side, size) for side in pixels.shape[:2])
    resample(pixels[None], *rows, *columns, target)
    return (target[0] + np.float32(0.5)).clip(0, 255).astype(np.uint8)


def resampled(images: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """uint8 [batch, h, w, 3] -> float32 [batch, 3, size, size], of about 0..1."""
    return (added_up if images.device.type == "cpu" else multiplied)(images, rows, columns)


def multiplied(images: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Resampled by two products of matrices, on any device: float32 [batch, 3, size, size]."""
    down, across = _matrix(*rows, images.shape[1]), _matrix(*columns, images.shape[2])
    pixels = images.permute(0, 3, 1, 2).float() / 255
    return down[:, None] @ pixels @ across.transpose(1, 2)[:, None]


def added_up(images: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """The same on a processor, where only what counts is looked at, by one thread."""
    from pretrain.resample_kernels import resample  # numba is imported when it is first needed

    (first_row, down), (first_column, across) = rows, columns
    size = first_row.shape[1]
    target = np.empty((len(images), size, size, 3), np.float32)
    pixels = np.ascontiguousarray(images.numpy())
    resample(
        pixels,
        first_row.numpy(),
        (down / 255).numpy(),
        first_column.numpy(),
        across.numpy(),
        target,
    )
    return torch.from_numpy(target).permute(0, 3, 1, 2)


def _matrix(first: Tensor, weights: Tensor, source: int) -> Tensor:
    """The same as a matrix [batch, target, source]."""
    columns = first[..., None] + torch.arange(weights.shape[-1], device=first.device)
    empty = torch.zeros(*first.shape, source, device=first.device)
    return empty.scatter_(-1, columns, weights)
