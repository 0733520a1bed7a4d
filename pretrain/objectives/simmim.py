"""SimMIM: Xie et al. 2021, "SimMIM: A Simple Framework for Masked Image Modeling"
(arXiv:2111.09886): the encoder sees all patches, some of them replaced by a learned token after
their embedding, and one linear layer rebuilds the pixels of those.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from infra.errors import SluiceError
from pretrain import masks
from pretrain import views as numbers
from pretrain.backbones import IMAGENET_MEAN, IMAGENET_STD, TimmEncoder, build_encoder
from pretrain.data import Batch
from pretrain.masked_images import enlarge, feature_map, plain_view
from pretrain.objectives.base import Objective
from pretrain.options.simmim import SimmimOptions
from pretrain.settings import TrainSettings

EPSILON = 1e-5


def simmim_loss(predicted: Tensor, images: Tensor, hidden: Tensor) -> Tensor:
    """Absolute error of the hidden pixels, over their number and that of the channels.

    predicted, images: [batch, channels, height, width]; hidden: float [batch, height, width], 1
    where hidden. The images are as the encoder gets them, normalised by channel.
    """
    error = (predicted - images).abs() * hidden[:, None]
    return error.sum() / (hidden.sum() + EPSILON) / images.shape[1]


class Simmim(Objective):
    """A transformer of timm that embeds patches first, and a layer that is thrown away."""

    def __init__(self, settings: TrainSettings, encoder: TimmEncoder) -> None:
        super().__init__(settings)
        assert isinstance(settings.options, SimmimOptions)
        self.options, size = settings.options, settings.image_size
        self.encoder, self.model = encoder, encoder.model
        width, self.grid, stride, outputs = self._probe()
        self.side = size // _mask_patch(self.options.mask_patch, size, size // self.grid)
        self.count = math.ceil(self.side**2 * self.options.mask_ratio)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.decoder = nn.Sequential(nn.Conv2d(outputs, stride**2 * 3, 1), nn.PixelShuffle(stride))
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    @torch.no_grad()
    def _probe(self) -> tuple[int, int, int, int]:
        """Width and grid of the patches, stride and width of the output, by a pass of one image.

        Raises SluiceError where the network has no such patches or output.
        """
        size, training = self.settings.image_size, self.model.training
        image = torch.zeros(1, 3, size, size)
        try:
            self.model.eval()
            embedded = self.model.patch_embed(image)
            tokens = embedded.reshape(1, -1, embedded.shape[-1])
            grid = math.isqrt(tokens.shape[1])
            square = embedded.ndim == 3 or embedded.shape[1:3] == (grid, grid)
            if not square or grid**2 != tokens.shape[1]:
                raise ValueError(f"its patches are of shape {list(embedded.shape[1:])}")
            nothing = torch.zeros(1, grid, grid, dtype=torch.bool)
            output = self._encode(image, nothing, torch.zeros(tokens.shape[-1]))
            if output.shape[2] != output.shape[3] or size % output.shape[2]:
                raise ValueError(f"its output is of shape {list(output.shape[1:])}")
        except (AttributeError, ValueError, TypeError, RuntimeError, AssertionError) as error:
            raise SluiceError(
                f"simmim cannot train a {type(self.model).__name__}: it hides patches between "
                f"their embedding and the layers after it ({error})",
                "use a transformer of timm with a patch_embed (vit_..., swin_...), or spark for a "
                "convolutional network",
            ) from error
        finally:
            self.model.train(training)
        return tokens.shape[-1], grid, size // output.shape[2], output.shape[1]

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        drawn = numbers.uniforms(self.key("view"), batch.places, 8)
        options, size = self.options, self.settings.image_size
        noise = numbers.uniforms(self.key("mask"), batch.places, self.side**2)
        hidden = masks.single_masks(noise, self.count).reshape(-1, self.side, self.side)
        return {
            "images": plain_view(batch, device, drawn, size, options.crop_scale, options.flip),
            "hidden": torch.from_numpy(hidden).to(device),
        }

    def forward(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images, hidden = views["images"], views["hidden"]
        patches = enlarge(hidden, self.grid, self.grid)
        predicted = self.decoder(self._encode(images, patches, self.mask_token)).float()
        pixels = enlarge(hidden, images.shape[2], images.shape[3])
        return simmim_loss(predicted, images, pixels.float()), {}

    def _encode(self, images: Tensor, hidden: Tensor, token: Tensor) -> Tensor:
        """Features [batch, width, rows, columns]; hidden: bool [batch, grid, grid] of patches."""
        return feature_map(self.model, _hiding(self.model, hidden, token).forward_features(images))

    def files(self) -> Iterator[tuple[str, bytes]]:
        return self.encoder.files(IMAGENET_MEAN, IMAGENET_STD)


def _hiding(model: Any, hidden: Tensor, token: Tensor) -> Any:
    """A view of `model`, for one call, whose patch embedding puts the token in hidden places.

    All weights are those of the model; the mask is held by the view alone, so that calls that
    overlap, or are computed again for their gradients, each keep their own.
    """

    def embed(images: Tensor) -> Tensor:
        patches = model.patch_embed(images)
        covered = hidden.reshape(len(images), *patches.shape[1:-1], 1)
        return torch.where(covered, token.to(patches.dtype), patches)

    view, embedding = copy.copy(model), copy.copy(model.patch_embed)
    embedding.forward = embed
    view._modules = {**model._modules, "patch_embed": embedding}
    return view


def _mask_patch(stated: int | None, size: int, patch: int) -> int:
    """Pixels of a side of a cell; raises SluiceError where the image is no whole number of it."""
    fitting = [side for side in range(patch, size, patch) if size % side == 0]
    if stated is None and fitting:
        return min(fitting, key=lambda side: (abs(side - size / 7), side))
    if stated in fitting:
        return stated
    raise SluiceError(
        f"options.mask_patch is {stated}: an image of {size} pixels in patches of {patch} has no "
        "such cells",
        f"use one of {fitting}" if fitting else "use a larger image_size or smaller patches",
    )


def build(settings: TrainSettings) -> Simmim:
    return Simmim(settings, build_encoder(settings))
