"""Images to network input, as open_clip's inference transform does it, a batch at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

MAX_ASPECT = 32  # a longer image is cut at its centre first: resizing it whole is a bomb

Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Preprocess:
    """Resize, centre crop or pad, scale to [0, 1], normalise.

    Gives what `open_clip.transform.image_transform_v2(cfg, is_train=False)` gives, but for a few
    levels of 255 where a pixel is resampled: PyTorch's filters are Pillow's (both antialiased, in
    whole numbers) and take a seventh of the time, and resizing was two thirds of all that embedding
    costs beside the network. It matters which side comes first where hard noise overshoots: Pillow
    from 13 on takes the longer one, PyTorch and earlier ones the width. The arithmetic on floats
    runs once per batch, not once per image.
    """

    size: tuple[int, int]  # height, width
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"  # or "bilinear"
    resize_mode: str = "shortest"  # or "longest" (then padded), "squash"
    fill_color: int = 0

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> "Preprocess":
        """From open_clip's preprocess_cfg."""
        size = config["size"]
        height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
        return Preprocess(
            (int(height), int(width)),
            tuple(config["mean"]),
            tuple(config["std"]),
            config.get("interpolation") or "bicubic",
            config.get("resize_mode") or "shortest",
            int(config.get("fill_color") or 0),
        )

    def __call__(self, images: Sequence[Array]) -> torch.Tensor:
        """uint8 RGB arrays [height, width, 3] -> float32 [n, 3, *size]."""
        batch = np.stack([self.fit(image) for image in images])
        pixels = torch.as_tensor(batch).permute(0, 3, 1, 2).contiguous().float().div_(255)
        mean = torch.tensor(self.mean).view(1, -1, 1, 1)
        std = torch.tensor(self.std).view(1, -1, 1, 1)
        return pixels.sub_(mean).div_(std)

    def fit(self, image: Array) -> Array:
        """One image at the network's size, still uint8."""
        image = _tame(image)
        height, width = self._target(image.shape[0], image.shape[1])
        if (height, width) != image.shape[:2]:
            image = _resize(image, height, width, self._method())
        return self._center(image)

    def _method(self) -> str:
        """open_clip's transform is always bicubic where a shortest side meets an oblong."""
        oblong = self.resize_mode == "shortest" and self.size[0] != self.size[1]
        bilinear = self.interpolation == "bilinear" and not oblong
        return "bilinear" if bilinear else "bicubic"

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if self.resize_mode == "squash":
            return self.size
        if self.resize_mode == "shortest" and self.size[0] == self.size[1]:
            short, long = min(height, width), max(height, width)
            grown = int(self.size[0] * long / short)  # cut, not rounded, as torchvision does
            return (self.size[0], grown) if height <= width else (grown, self.size[0])
        ratios = height / self.size[0], width / self.size[1]
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return max(round(height / ratio), 1), max(round(width / ratio), 1)

    def _center(self, image: Array) -> Array:
        """Cut or pad each side to the network's size, around the centre."""
        for axis, size in enumerate(self.size):
            have = image.shape[axis]
            if have < size:
                before = (size - have) // 2
                padding = [(0, 0)] * 3
                padding[axis] = (before, size - have - before)
                image = np.pad(image, padding, constant_values=self.fill_color)
            elif have > size:
                start = round((have - size) / 2.0)
                image = image[start : start + size] if axis == 0 else image[:, start : start + size]
        return image


def _resize(image: Array, height: int, width: int, method: str) -> Array:
    """uint8 RGB, resampled; in PyTorch's terms a batch of one with the channels last."""
    pixels = torch.from_numpy(image if image.flags.writeable else image.copy())
    batch = pixels.permute(2, 0, 1)[None]
    resized = F.interpolate(batch, (height, width), mode=method, antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def _tame(image: Array) -> Array:
    """Cut an absurdly long image at its centre to MAX_ASPECT."""
    height, width = image.shape[:2]
    limit = MAX_ASPECT * min(height, width)
    if height > limit:
        start = (height - limit) // 2
        return image[start : start + limit]
    if width > limit:
        start = (width - limit) // 2
        return image[:, start : start + limit]
    return image
