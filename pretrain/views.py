"""Views of images: random crops and colours, for a whole batch at once, on any device.

A crop is resampled (`pretrain.resample`), a blur is two small matrices. The random numbers of a
sample depend on its position in the run alone, so a run that stops and goes on sees the same views.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra.digests import generator
from pretrain.resample import resampled, taps

LUMA = (0.299, 0.587, 0.114)
BLUR_SIGMA = (0.1, 2.0)  # pixels at 224, scaled with the view's size
RATIO = (3 / 4, 4 / 3)
TO_YIQ = np.asarray([LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
FROM_YIQ = np.linalg.inv(TO_YIQ)


def uniforms(key: tuple[Any, ...], places: np.ndarray, width: int) -> np.ndarray:
    """Uniform numbers in [0, 1), float32 [count, width]; row i depends on (key, places[i]).

    places: positions in the run, int64 [count], which lie close together: the numbers of those
    between them are drawn, too. Philox counts in blocks of four numbers, so a row takes a whole
    number of blocks.
    """
    blocks, first = -(-width // 4), int(places.min())
    numbers = generator(*key)
    numbers.bit_generator.advance(first * blocks)  # type: ignore[attr-defined]
    drawn = numbers.random((int(places.max()) - first + 1, blocks * 4))
    return drawn[places - first, :width].astype(np.float32)


def drop_tokens(tokens: Tensor, numbers: np.ndarray, share: float) -> Tensor:
    """Captions without some of their tokens; what is left moves up, zeros fill the end.

    tokens: ids [batch, context], 0 behind the caption; numbers: uniform [batch, context]. The
    first and the last token of a caption, which mark its start and end, always stay.
    """
    place = torch.arange(tokens.shape[1])
    length = (tokens != 0).sum(1, keepdim=True)
    ends = (place == 0) | (place == length - 1)
    kept = ((torch.from_numpy(numbers) >= share) | ends) & (place < length)
    order = torch.argsort((~kept).int(), dim=1, stable=True)
    return torch.where(torch.gather(kept, 1, order), torch.gather(tokens, 1, order), 0)


def crop_boxes(numbers: np.ndarray, sizes: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Random resized crops (Szegedy et al. 2015): boxes [batch, 4] as y0, x0, y1, x1 in 0..1.

    numbers: uniform [batch, 4]; sizes: height and width [batch, 2]. A side longer than the image
    is cut to it, instead of drawn again.
    """
    area = scale[0] + (scale[1] - scale[0]) * numbers[:, 0]
    ratio = np.exp(np.log(RATIO[0]) + np.log(RATIO[1] / RATIO[0]) * numbers[:, 1])
    aspect = sizes[:, 0] / sizes[:, 1]
    width = np.minimum(np.sqrt(area * ratio * aspect), 1.0)
    height = np.minimum(np.sqrt(area / ratio / aspect), 1.0)
    y, x = (1 - height) * numbers[:, 2], (1 - width) * numbers[:, 3]
    return np.stack([y, x, y + height, x + width], axis=1)


def blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """Gaussian blur along one axis as a matrix [batch, size, size]; sigma in pixels, [batch]."""
    place = torch.arange(size, device=sigma.device, dtype=torch.float32)
    distance = place[:, None] - place
    weights = torch.exp(-0.5 * (distance / sigma.clamp(min=1e-3)[:, None, None]) ** 2)
    return weights / weights.sum(-1, keepdim=True)


def crop(
    images: Tensor,
    boxes: np.ndarray,
    size: int,
    mirrored: np.ndarray | None = None,
    sigma: np.ndarray | None = None,
) -> Tensor:
    """Cut, resize, mirror and blur: uint8 [batch, h, w, 3] -> float32 [batch, 3, size, size]."""
    box = torch.from_numpy(boxes.astype(np.float32)).to(images.device)
    rows = taps(box[:, 0], box[:, 2], images.shape[1], size)
    columns = taps(box[:, 1], box[:, 3], images.shape[2], size)
    if mirrored is not None:
        chosen = torch.from_numpy(mirrored).to(images.device)[:, None]
        first, weights = columns
        columns = (
            torch.where(chosen, first.flip(1), first),
            torch.where(chosen[..., None], weights.flip(1), weights),
        )
    cropped = resampled(images, rows, columns)
    if sigma is not None:
        blurred = np.flatnonzero(sigma > 0)
        blur = blur_matrix(torch.from_numpy(sigma[blurred].astype(np.float32)), size)
        blur = blur.to(images.device)[:, None]
        cropped[blurred] = blur @ cropped[blurred] @ blur.transpose(2, 3)
    return cropped.clamp_(0, 1)


def _luma(images: Tensor) -> Tensor:
    weights = torch.tensor(LUMA, device=images.device)
    return (images * weights[:, None, None]).sum(1, keepdim=True)


def colour(images: Tensor, numbers: np.ndarray, strength: float, chance: float) -> Tensor:
    """Jitter of brightness, contrast, saturation and hue, in this order.

    numbers: uniform [batch, 5]. Strength 0.4 is the published (0.4, 0.4, 0.2, 0.1); hue turns the
    chroma plane of YIQ rather than HSV's wheel, which is one matrix for each image.
    """
    values = torch.from_numpy(numbers).to(images.device)
    applied = (values[:, 0] < chance).float() * strength
    shape = (-1, 1, 1, 1)
    turn = values[:, 1:5] * 2 - 1
    images = images * (1 + applied * turn[:, 0]).view(shape)
    grey = _luma(images).mean((2, 3), keepdim=True)
    images = grey + (images - grey) * (1 + applied * turn[:, 1]).view(shape)
    grey = _luma(images)
    images = grey + (images - grey) * (1 + applied * turn[:, 2] / 2).view(shape)
    return _turn_hue(images, applied * turn[:, 3] / 4 * 2 * torch.pi).clamp(0, 1)


def _turn_hue(images: Tensor, angle: Tensor) -> Tensor:
    to_yiq = torch.tensor(TO_YIQ, dtype=torch.float32, device=images.device)
    from_yiq = torch.tensor(FROM_YIQ, dtype=torch.float32, device=images.device)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    one = torch.ones_like(angle)
    rotation = torch.stack([one, zero, zero, zero, cosine, -sine, zero, sine, cosine], dim=1).view(
        -1, 3, 3
    )
    matrix = from_yiq @ rotation @ to_yiq
    return (matrix @ images.flatten(2)).view_as(images)


def grey(images: Tensor, chosen: np.ndarray) -> Tensor:
    """Without colour where `chosen` [batch]."""
    mask = torch.from_numpy(chosen).to(images.device).view(-1, 1, 1, 1)
    return torch.where(mask, _luma(images).expand_as(images), images)


def solarize(images: Tensor, chosen: np.ndarray, threshold: float = 0.5) -> Tensor:
    """Bright pixels inverted where `chosen` [batch]."""
    mask = torch.from_numpy(chosen).to(images.device).view(-1, 1, 1, 1)
    return torch.where(mask & (images >= threshold), 1 - images, images)


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(x - mean) / std for each channel, in the channels-last layout convolutions prefer.

    By whole lines of pixels: a processor takes three numbers at a time six times as long.
    """
    last = images.permute(0, 2, 3, 1).contiguous()
    batch, height, width, channels = last.shape
    centre, spread = (
        torch.tensor(each, device=images.device).repeat(width) for each in (mean, std)
    )
    scaled = (last.view(batch * height, width * channels) - centre).div_(spread)
    return scaled.view(last.shape).permute(0, 3, 1, 2)
