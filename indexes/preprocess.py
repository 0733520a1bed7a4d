"""Images to network input, as open_clip's inference transform does it, a batch at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from indexes.resize import Window, kernels, resize

MAX_ASPECT = 32  # a longer image is cut at its centre first: resizing it whole is a bomb

Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Preprocess:
    """Resize, centre crop or pad, scale to [0, 1], normalise.

    Gives what `open_clip.transform.image_transform_v2(cfg, is_train=False)` gives, to the bit where
    both sides shrink or grow by the same factor. Otherwise Pillow from 13 on may take the height
    before the width, which differs by rounding, and by some levels of 255 where noise overshoots.
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
        return self.normalise(self.stack(images))

    def stack(self, images: Sequence[Array]) -> torch.Tensor:
        """uint8 RGB arrays [height, width, 3] -> uint8 [n, 3, *size]; those that fit are copied."""
        return torch.from_numpy(np.stack([self.fit(each).transpose(2, 0, 1) for each in images]))

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [n, 3, *size] -> float32, on its device."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        if pixels.device.type != "cpu":
            mean, std = (each.to(pixels.device).view(-1, 1, 1) for each in (mean, std))
            return pixels.float().div_(255).sub_(mean).div_(std)
        result = torch.empty(pixels.shape)
        flat, target = (each.flatten(2).numpy() for each in (pixels, result))
        kernels().normalise(flat, mean.numpy(), std.numpy(), target)
        return result

    def fit(self, image: Array) -> Array:
        """One image at the network's size, still uint8 [*size, 3]."""
        image = _tame(image)
        height, width = self._target(image.shape[0], image.shape[1])
        if (height, width) != image.shape[:2]:
            rows = _window(image.shape[0], height, self.size[0])
            columns = _window(image.shape[1], width, self.size[1])
            image = resize(image, rows, columns, self._method())
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


def _window(have: int, grown: int, size: int) -> Window:
    """Of `grown` pixels the `size` in the middle, or all."""
    return Window(have, grown, max(round((grown - size) / 2.0), 0), min(grown, size))


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
