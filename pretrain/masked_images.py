"""What the objectives that rebuild images share: plain views, feature maps, cells of any size."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain import views
from pretrain.backbones import IMAGENET_MEAN, IMAGENET_STD
from pretrain.data import Batch
from pretrain.declare import Range


def plain_view(
    batch: Batch,
    device: torch.device,
    numbers: NDArray[np.float32],
    size: int,
    scale: Range,
    flip: float,
) -> Tensor:
    """Normalised images [batch, 3, size, size]: a random crop, mirrored by chance, no colours.

    numbers: uniform [batch, 5] or more; scale: area share of the crop; flip: chance of a mirror.
    """
    boxes = views.crop_boxes(numbers[:, :4], batch.sizes, scale)
    pixels = torch.from_numpy(batch.images).to(device)
    images = views.crop(pixels, boxes, size, numbers[:, 4] < flip)
    return views.normalize(images, IMAGENET_MEAN, IMAGENET_STD)


def enlarge(cells: Tensor, height: int, width: int) -> Tensor:
    """[batch, rows, columns] -> [batch, height, width], each cell repeated; whole multiples."""
    cells = cells.repeat_interleave(height // cells.shape[1], 1)
    return cells.repeat_interleave(width // cells.shape[2], 2)


def feature_map(model: Any, output: Tensor) -> Tensor:
    """What a timm model's `forward_features` gives, as [batch, width, rows, columns].

    Tokens are a square after those that stand for no place; RuntimeError where they are none.
    """
    if output.ndim == 3:
        output = output[:, int(getattr(model, "num_prefix_tokens", 0)) :]
        side = math.isqrt(output.shape[1])
        output = output.reshape(len(output), side, side, -1)
    elif getattr(model, "output_fmt", "NCHW") != "NHWC":
        return output
    return output.permute(0, 3, 1, 2)
