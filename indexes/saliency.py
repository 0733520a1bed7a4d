"""Where an image is what its text says: the gradient of their similarity, patch by patch.

Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) over the last features that have a place: the
input of the layer that joins all places, which is pooling in convolutional networks and the last
block of vision transformers. Networks built otherwise: how much each pixel moves the similarity.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from indexes.encoder import CHUNK, ClipEncoder

# Where open_clip's own networks, and timm's within them, join what was found at each place.
JOINS = ("attnpool", "transformer.resblocks", "trunk.blocks", "trunk.global_pool")


def patch_importance(
    encoder: ClipEncoder, images: Sequence[npt.NDArray[np.uint8]], texts: Sequence[str], grid: int
) -> npt.NDArray[np.float32]:
    """How much each patch of a grid adds to the similarity: float32 [n, grid * grid], from 0 on.

    images: uint8 RGB of any sizes, each seen whole, squashed to the network's size; patches go row
    by row. All 0 where no patch says more than another. In float32, a fixed number of samples at a
    time, so that an answer does not depend on the others.
    """
    squashed = replace(encoder.preprocess, resize_mode="squash")
    vectors = torch.from_numpy(encoder.encode_texts(texts).astype(np.float32))
    found = np.zeros((len(images), grid * grid), np.float32)
    for start in range(0, len(images), CHUNK):
        rows = slice(start, start + CHUNK)
        pixels, wanted = squashed(images[rows]), vectors[rows]
        missing = (0, 0, 0, CHUNK - len(wanted))
        wanted = F.pad(wanted, missing).to(encoder.device)
        pixels = F.pad(pixels, (0, 0, 0, 0, *missing)).to(encoder.device)
        maps = _on_grid(_maps(encoder, pixels, wanted), grid)[: len(images[rows])]
        maps = maps - maps.amin(dim=1, keepdim=True)
        found[rows] = torch.nan_to_num(maps, 0, 0, 0).cpu().numpy()
    return found


def _maps(encoder: ClipEncoder, pixels: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """[n, 3, height, width] and unit [n, dim] -> [n, places down, places across]."""
    model: Any = encoder.model
    joins = _joins(model.visual)
    if joins is None:
        return _gradients(model, pixels, texts, pixels.requires_grad_())[0].abs().sum(dim=1)
    held: list[torch.Tensor] = []

    def hold(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        held.append(given[0].detach().requires_grad_())
        return (held[0], *given[1:])

    handle = joins.register_forward_pre_hook(hold)
    try:
        gradient = _gradients(model, pixels, texts, held)[0]
    finally:
        handle.remove()
    features, gradient = (_places(each, len(pixels)) for each in (held[0].detach(), gradient))
    return (gradient.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1)


def _gradients(
    model: Any, pixels: torch.Tensor, texts: torch.Tensor, of: Any
) -> tuple[torch.Tensor, ...]:
    """The gradient of the similarities with regard to `of`, which the forward pass may fill."""
    with torch.enable_grad():
        similarity = (F.normalize(model.encode_image(pixels).float(), dim=-1) * texts).sum()
        return torch.autograd.grad(similarity, of)


def _joins(visual: nn.Module) -> nn.Module | None:
    """The layer that joins all places, the last block of several; None where none is known."""
    for path in JOINS:
        found: Any = visual
        for name in path.split("."):
            found = getattr(found, name, None)
        if isinstance(found, nn.Sequential | nn.ModuleList):
            found = found[-1] if len(found) else None
        if isinstance(found, nn.Module):
            return found
    return None


def _places(features: torch.Tensor, count: int) -> torch.Tensor:
    """Features of the last layer as [n, channels, down, across]; tokens lie in a square."""
    if features.dim() == 4:
        return features
    if features.shape[0] != count:  # the batch is the second axis
        features = features.transpose(0, 1)
    side = math.isqrt(features.shape[1])  # the class token and its like come first
    tokens = features[:, -side * side :]
    return tokens.transpose(1, 2).reshape(count, -1, side, side)


def _on_grid(maps: torch.Tensor, grid: int) -> torch.Tensor:
    """[n, down, across] -> [n, grid * grid]: averaged where they are finer, else interpolated."""
    maps = maps[:, None]
    if min(maps.shape[2:]) > grid:
        return F.adaptive_avg_pool2d(maps, grid).flatten(1)
    return F.interpolate(maps, (grid, grid), mode="bilinear", align_corners=False).flatten(1)
