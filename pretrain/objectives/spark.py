"""SparK: Tian et al. 2023, "Designing BERT for Convolutional Networks: Sparse and Hierarchical
Masked Modeling" (arXiv:2301.03580): a convolutional network sees the shown cells of an image alone,
and a light decoder rebuilds the others from its features at several scales.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from infra.errors import SluiceError
from pretrain import masks
from pretrain import views as numbers
from pretrain.backbones import IMAGENET_MEAN, IMAGENET_STD, TimmEncoder, build_encoder
from pretrain.data import Batch
from pretrain.masked_images import plain_view
from pretrain.objectives.base import Objective
from pretrain.objectives.mae import mae_loss, patchify
from pretrain.options.spark import SparkOptions
from pretrain.settings import TrainSettings
from pretrain.sparse import Shown, bound, check_maps, feature_maps
from pretrain.teacher import cosine

FINEST = 4  # pixels of a place of the finest map that the decoder takes
LEAST_CELLS = 4


class Densify(nn.Module):
    """Features of one scale, normalised, a learned token in hidden places, and a convolution."""

    def __init__(self, channels: int, width: int, kernel: int, batch_norm: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels) if batch_norm else LayerNorm2d(channels)
        self.token = nn.Parameter(torch.empty(channels))
        self.project = nn.Conv2d(channels, width, kernel, padding=kernel // 2)
        nn.init.trunc_normal_(self.token, std=0.02)

    def forward(self, values: Tensor, shown: Shown) -> Tensor:
        """[batch, channels, height, width], zero in hidden places -> [batch, width, ...]."""
        places = shown.at(*values.shape[2:])
        assert places is not None
        values = bound(self.norm, shown)(values)
        token = self.token.to(values.dtype)[:, None, None]
        return self.project(torch.where(places[:, None], values, token))


class Finer(nn.Sequential):
    """[batch, width, height, width'] -> half as wide, and twice as high and wide a map."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(width, width, 4, 2, 1),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(),
            nn.Conv2d(width, width // 2, 3, padding=1, bias=False),
            nn.BatchNorm2d(width // 2),
        )


class Decoder(nn.Module):
    """From the deepest map to pixels, twice as fine at each of its blocks, with the finer maps
    added on the way: a light UNet.
    """

    def __init__(self, maps: Mapping[int, int], width: int, batch_norm: bool) -> None:
        """maps: pixels of a place -> channels."""
        super().__init__()
        cell = max(maps)
        self.strides = [cell >> level for level in range(cell.bit_length())]  # cell, ..., 2, 1
        self.densify = nn.ModuleDict(
            {
                str(stride): Densify(
                    maps[stride], width >> level, 1 if stride == cell else 3, batch_norm
                )
                for level, stride in enumerate(self.strides)
                if stride in maps and stride >= min(FINEST, cell)
            }
        )
        self.finer = nn.ModuleList(Finer(width >> level) for level in range(len(self.strides) - 1))
        self.pixels = nn.Conv2d(width >> len(self.finer), 3, 1)

    def forward(self, maps: Mapping[int, Tensor], shown: Shown) -> Tensor:
        """Features by the pixels of a place -> predicted images [batch, 3, height, width]."""
        values: Any = 0
        for stride, finer in zip(self.strides, self.finer, strict=False):
            if str(stride) in self.densify:
                values = values + self.densify[str(stride)](maps[stride], shown)
            values = finer(values)
        return self.pixels(values)


class Spark(Objective):
    """A convolutional network of timm, and a decoder that is thrown away."""

    opens_blocks = True

    def __init__(self, settings: TrainSettings, encoder: TimmEncoder) -> None:
        super().__init__(settings)
        assert isinstance(settings.options, SparkOptions)
        self.options, size = settings.options, settings.image_size
        self.encoder, self.model = encoder, encoder.model
        maps = check_maps(self.model, size)
        self.cell = max(maps)
        self.side = size // self.cell
        _check_sizes(self.cell, size, self.options.decoder_width)
        shown = round(self.side**2 * (1 - self.options.mask_ratio))
        self.hidden = self.side**2 - min(max(shown, 1), self.side**2 - 1)
        batch_norm = any(isinstance(module, _BatchNorm) for module in self.model.modules())
        self.decoder = Decoder(maps, self.options.decoder_width, batch_norm)

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        drawn = numbers.uniforms(self.key("view"), batch.places, 8)
        options, size = self.options, self.settings.image_size
        noise = numbers.uniforms(self.key("mask"), batch.places, self.side**2)
        hidden = masks.single_masks(noise, self.hidden).reshape(-1, self.side, self.side)
        return {
            "images": plain_view(batch, device, drawn, size, options.crop_scale, options.flip),
            "shown": torch.from_numpy(~hidden).to(device),
        }

    def forward(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images, cells = views["images"], views["shown"]
        predicted = self._predict(images, cells).float()  # pyright: ignore[reportCallIssue]
        hidden = (~cells).flatten(1).float()
        patches = patchify(images, self.cell)
        loss = mae_loss(
            patchify(predicted, self.cell), patches, hidden, self.options.normalize_pixels
        )
        return loss, {}

    # Its view of the network is made anew at each call, which compiling would follow each time.
    @torch.compiler.disable
    def _predict(self, images: Tensor, cells: Tensor) -> Tensor:
        """Predicted images; cells: bool [batch, rows, columns], True where shown."""
        shown = Shown(cells, len(cells) * (self.side**2 - self.hidden))
        maps = feature_maps(self.model, images, shown)
        size = images.shape[2]
        return self.decoder({size // values.shape[2]: values for values in maps}, shown)

    def weight_decay(self, progress: float) -> float:
        return cosine(self.settings.weight_decay, self.options.weight_decay_end, progress)

    def files(self) -> Iterator[tuple[str, bytes]]:
        return self.encoder.files(IMAGENET_MEAN, IMAGENET_STD)


def _check_sizes(cell: int, size: int, width: int) -> None:
    """Raise SluiceError where cells or widths cannot be halved down to pixels, or are too few."""
    if cell & (cell - 1):
        raise SluiceError(
            f"a place of the deepest map is of {cell} pixels, and no power of two",
            "choose a network whose stride is one",
        )
    if (size // cell) ** 2 < LEAST_CELLS:
        raise SluiceError(
            f"an image of {size} pixels is {size // cell} x {size // cell} cells of {cell}, too "
            "few to hide some of them",
            f"use an image_size of {7 * cell}, or a network of a smaller stride (model_kwargs: "
            "output_stride: 8)",
        )
    if width % cell:
        raise SluiceError(
            f"decoder_width {width} cannot be halved from cells of {cell} pixels down to one",
            f"use a multiple of {cell}",
        )


def build(settings: TrainSettings) -> Spark:
    return Spark(settings, build_encoder(settings))
