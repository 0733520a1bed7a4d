"""MAE: He et al. 2021, "Masked Autoencoders Are Scalable Vision Learners" (arXiv:2111.06377):
the encoder sees a quarter of the patches, a small decoder rebuilds the pixels of the others.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from infra.errors import SluiceError
from pretrain import views
from pretrain.backbones import IMAGENET_MEAN, IMAGENET_STD, TimmEncoder, build_encoder, run_blocks
from pretrain.data import Batch
from pretrain.objectives.base import Objective
from pretrain.options.mae import MaeOptions
from pretrain.settings import TrainSettings

EPSILON = 1e-6


def patchify(images: Tensor, patch: int) -> Tensor:
    """[batch, 3, height, width] -> [batch, patches, patch * patch * 3], row by row."""
    batch, channels, height, width = images.shape
    grid = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * channels)


def mae_loss(predicted: Tensor, patches: Tensor, hidden: Tensor, normalize: bool) -> Tensor:
    """Mean squared error over the hidden patches of the whole batch.

    predicted, patches: [batch, patches, values]; hidden: float [batch, patches], 1 where hidden.
    normalize: against each patch less its mean, over the root of its unbiased variance.
    """
    if normalize:
        mean = patches.mean(-1, keepdim=True)
        patches = (patches - mean) / (patches.var(-1, keepdim=True) + EPSILON).sqrt()
    error = ((predicted - patches) ** 2).mean(-1)
    return (error * hidden).sum() / hidden.sum()


def sincos(width: int, grid: tuple[int, int], prefix: int) -> Tensor:
    """Fixed positions [1, prefix + patches, width]: half the width for rows, half for columns,
    each half sine and cosine (Vaswani et al. 2017); zeros for the prefix tokens.
    """
    if width % 4:
        raise SluiceError(
            f"width {width} does not divide by 4, as sine-cosine positions need",
            "choose an embed_dim and decoder_width that do",
        )
    frequencies = 10000 ** (-np.arange(width // 4) / (width / 4))
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    parts = []
    for place in (columns, rows):
        angle = place.reshape(-1, 1) * frequencies
        parts += [np.sin(angle), np.cos(angle)]
    table = np.concatenate([np.zeros((prefix, width)), np.concatenate(parts, axis=1)])
    return torch.from_numpy(table).float()[None]


class Mae(Objective):
    """A vision transformer of timm, and a decoder that is thrown away."""

    positions: Tensor

    def __init__(self, settings: TrainSettings, encoder: TimmEncoder) -> None:
        super().__init__(settings)
        assert isinstance(settings.options, MaeOptions)
        self.options = options = settings.options
        self.encoder = encoder
        self.model = encoder.model
        self.prefix = int(self.model.num_prefix_tokens)
        self.patch = int(self.model.patch_embed.patch_size[0])
        grid = self.model.patch_embed.grid_size
        self.count = grid[0] * grid[1]
        self.keep = max(int(self.count * (1 - options.mask_ratio)), 1)
        width = options.decoder_width
        self.embed = nn.Linear(encoder.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("positions", sincos(width, grid, self.prefix), persistent=False)
        self.decoder = nn.Sequential(
            *(
                Block(width, options.decoder_heads, qkv_bias=True)
                for _ in range(options.decoder_depth)
            )
        )
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.predict = nn.Linear(width, self.patch**2 * 3)
        self._initialize(grid, fresh=encoder.fresh)

    def _initialize(self, grid: tuple[int, int], fresh: bool) -> None:
        """The published initialisation; given weights of the encoder stay as they are."""
        parts = [self.embed, self.decoder, self.predict, *([self.model.blocks] if fresh else [])]
        for layer in (layer for part in parts for layer in part.modules()):
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.mask_token, std=0.02)
        assert self.model.pos_embed is not None
        self.model.pos_embed.requires_grad_(False)
        if fresh:
            table = sincos(self.encoder.width, grid, self.model.pos_embed.shape[1] - self.count)
            self.model.pos_embed.copy_(table)
            nn.init.xavier_uniform_(self.model.patch_embed.proj.weight.view(self.encoder.width, -1))
            if self.model.cls_token is not None:
                nn.init.normal_(self.model.cls_token, std=0.02)

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        numbers = views.uniforms(self.key("view"), batch.places, 8)
        boxes = views.crop_boxes(numbers[:, :4], batch.sizes, self.options.crop_scale)
        pixels = torch.from_numpy(batch.images).to(device)
        mirrored = numbers[:, 4] < self.options.flip
        images = views.crop(pixels, boxes, self.settings.image_size, mirrored)
        noise = views.uniforms(self.key("mask"), batch.places, self.count)
        order = np.argsort(noise, axis=1, kind="stable")
        return {
            "images": views.normalize(images, IMAGENET_MEAN, IMAGENET_STD),
            "order": torch.from_numpy(order).to(device),  # the first `keep` stay visible
        }

    def forward(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images, order = views["images"], views["order"]
        back = order.argsort(1)
        predicted = self._decode(self._encode(images, order[:, : self.keep]), back).float()
        hidden = (back >= self.keep).float()
        patches = patchify(images, self.patch)
        return mae_loss(predicted, patches, hidden, self.options.normalize_pixels), {}

    def _encode(self, images: Tensor, visible: Tensor) -> Tensor:
        """Tokens [batch, prefix + keep, width] of the visible patches alone."""
        model = self.model
        assert model.pos_embed is not None
        tokens = model.patch_embed(images).reshape(len(images), self.count, -1)
        tokens = _take(tokens + model.pos_embed[:, -self.count :], visible)
        if self.prefix and model.cls_token is not None:
            first = model.cls_token + model.pos_embed[:, : model.pos_embed.shape[1] - self.count]
            tokens = torch.cat([first.expand(len(tokens), -1, -1), tokens], dim=1)
        return model.norm(run_blocks(model, model.norm_pre(tokens)))

    def _decode(self, tokens: Tensor, back: Tensor) -> Tensor:
        """Predicted pixels [batch, patches, patch * patch * 3]."""
        tokens = self.embed(tokens)
        seen = tokens[:, self.prefix :]
        blanks = self.mask_token.expand(len(seen), self.count - self.keep, -1)
        patches = _take(torch.cat([seen, blanks], dim=1), back)
        tokens = torch.cat([tokens[:, : self.prefix], patches], dim=1) + self.positions
        return self.predict(self.norm(self.decoder(tokens)))[:, self.prefix :]

    def files(self) -> Iterator[tuple[str, bytes]]:
        return self.encoder.files(IMAGENET_MEAN, IMAGENET_STD)


def _take(tokens: Tensor, places: Tensor) -> Tensor:
    """tokens[b, places[b, i]] as [batch, places, width]: whole rows, not number by number."""
    count, length, width = tokens.shape
    rows = places + length * torch.arange(count, device=places.device)[:, None]
    return tokens.reshape(-1, width).index_select(0, rows.flatten()).view(count, -1, width)


def build(settings: TrainSettings) -> Mae:
    return Mae(settings, build_encoder(settings))
