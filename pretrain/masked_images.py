"""What the objectives that rebuild images share: their plain views, and cells at other sizes."""

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
