"""SemAIM: Song et al. 2023, "Semantic-Aware Autoregressive Image Modeling for Visual Representation
Learning" (arXiv:2312.10457): patches are predicted one after another, those of the main object
first, each from the ones before it.

From the abstract, and for what it leaves open from what the authors' own implementation does (the
paper's method section was not at hand): the order (the patch whose features are most similar to the
class token comes first, the others by their distance to it), two streams under the masks of that
order, in which a content token sees itself and its predecessors and a query its predecessors alone
(as XLNet and SAIM, arXiv:2212.01610), fixed sine-cosine positions as first queries, an MLP that
predicts, normalised blurred pixels or unit features as targets, and every patch in the loss.

Ours: the order's ties are keyed by position; blurring is not cut off at nine pixels and does not
darken the borders; queries and content are normalised apart in a query block; the average of the
encoder has one momentum, where the authors' rises from 0.999 to 0.9999; features of other networks
(CLIP, DINO) as targets are left out.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from infra.errors import SluiceError
from pretrain import views as numbers
from pretrain.backbones import IMAGENET_MEAN, IMAGENET_STD, TimmEncoder, build_encoder
from pretrain.data import Batch
from pretrain.masked_images import plain_view
from pretrain.objectives.base import Objective, exact
from pretrain.objectives.mae import mae_loss, patchify, sincos
from pretrain.options.semaim import SemaimOptions
from pretrain.settings import TrainSettings
from pretrain.teacher import follow, never_drops, take

EPSILON = 1e-6


def semantic_order(tokens: Tensor, grid: tuple[int, int], ties: Tensor) -> Tensor:
    """The rank of each patch in its image, int64 [batch, patches], 0 for the first.

    tokens: features [batch, 1 + patches, width], the class token first. The patch with the highest
    cosine to the class token is the first, the others follow by their distance to it on the grid;
    ties: uniform [batch, patches], decide between equal distances.
    """
    unit = functional.normalize(tokens, dim=-1)
    centre = (unit[:, 1:] * unit[:, :1]).sum(-1).argmax(1, keepdim=True)
    place = torch.arange(grid[0] * grid[1], device=tokens.device)
    rows, columns = place // grid[1], place % grid[1]
    distance = (rows - centre // grid[1]) ** 2 + (columns - centre % grid[1]) ** 2
    first = ties.argsort(dim=1, stable=True)  # by the ties, then stably by distances: both count
    order = first.gather(1, distance.gather(1, first).argsort(dim=1, stable=True))
    return order.argsort(1)


def order_masks(rank: Tensor) -> tuple[Tensor, Tensor]:
    """What may be seen, bool: by content [batch, 1, 1 + patches, 1 + patches], by queries
    [batch, 1, patches, 1 + patches]; the class token, the first, is seen by all and sees itself.

    rank: int [batch, patches].
    """
    before = rank[:, None, :] < rank[:, :, None]
    queries = functional.pad(before, (1, 0), value=True)
    itself = before | torch.eye(rank.shape[1], dtype=torch.bool, device=rank.device)
    content = functional.pad(functional.pad(itself, (1, 0), value=True), (0, 0, 1, 0), value=False)
    content[:, 0, 0] = True
    return content[:, None], queries[:, None]


def feature_loss(predicted: Tensor, features: Tensor) -> Tensor:
    """Squared distance of unit vectors, 2 - 2 cosine, over all [batch, patches, width]."""
    unit, wanted = (functional.normalize(values, dim=-1) for values in (predicted, features))
    return ((unit - wanted) ** 2).sum(-1).mean()


class QueryBlock(nn.Module):
    """Queries take from the content they may see: attention across the streams, then an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.content_norm = (nn.LayerNorm(width, eps=EPSILON) for _ in range(2))
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, queries: Tensor, content: Tensor, seen: Tensor) -> Tensor:
        """[batch, patches, width]; content: [batch, 1 + patches, width]; seen: as order_masks."""
        query = self._split(self.query(self.norm(queries)))
        key, value = map(self._split, self.key_value(self.content_norm(content)).chunk(2, -1))
        taken = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        queries = queries + self.project(taken.transpose(1, 2).flatten(2))
        return queries + self.mlp(self.mlp_norm(queries))

    def _split(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Semaim(Objective):
    """A vision transformer of timm, the content stream, and a predictor that is thrown away."""

    def __init__(
        self, settings: TrainSettings, encoder: TimmEncoder, teacher: TimmEncoder | None
    ) -> None:
        super().__init__(settings)
        assert isinstance(settings.options, SemaimOptions)
        self.options = settings.options
        self.encoder, self.model = encoder, encoder.model
        _check(self.model)
        self.grid = tuple(self.model.patch_embed.grid_size)
        self.patch = int(self.model.patch_embed.patch_size[0])
        depth, width = len(self.model.blocks), encoder.width
        count = self.options.query_depth or depth
        if depth % count:
            raise SluiceError(
                f"options.query_depth is {count}, and does not divide the {depth} blocks of "
                f"{settings.model}",
                "use a divisor of it, or leave it out",
            )
        self.every = depth // count
        heads = self.model.blocks[0].attn.num_heads
        self.query_blocks = nn.ModuleList(QueryBlock(width, heads) for _ in range(count))
        outputs = width if teacher else self.patch**2 * 3
        self.predict = Mlp(width, 4 * width, outputs)
        self._initialize(fresh=encoder.fresh)
        self.teacher = teacher.model if teacher else None
        if self.teacher is not None:
            take(self.teacher, self.model)
            never_drops(self.teacher)

    def _initialize(self, fresh: bool) -> None:
        """The published initialisation, that of MAE; given weights stay as they are."""
        parts = [self.query_blocks, self.predict, *([self.model.blocks] if fresh else [])]
        for layer in (layer for part in parts for layer in part.modules()):
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.model.pos_embed.requires_grad_(False)
        if fresh:
            self.model.pos_embed.copy_(sincos(self.encoder.width, self.grid, 1))
            nn.init.xavier_uniform_(self.model.patch_embed.proj.weight.flatten(1))
            nn.init.normal_(self.model.cls_token, std=0.02)

    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        drawn = numbers.uniforms(self.key("view"), batch.places, 8)
        options, size = self.options, self.settings.image_size
        ties = numbers.uniforms(self.key("ties"), batch.places, math.prod(self.grid))
        return {
            "images": plain_view(batch, device, drawn, size, options.crop_scale, options.flip),
            "ties": torch.from_numpy(ties).to(device),
        }

    def forward(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images = views["images"]
        with torch.no_grad():
            tokens = (self.teacher or self.model).forward_features(images).float()
            rank = semantic_order(tokens, self.grid, views["ties"])
        predicted = self._predict(images, rank).float()
        if self.teacher is not None:
            return feature_loss(predicted, tokens[:, 1:]), {}
        patches = patchify(self._blurred(images), self.patch)
        every = torch.ones_like(patches[..., 0])
        return mae_loss(predicted, patches, every, self.options.normalize_pixels), {}

    def _predict(self, images: Tensor, rank: Tensor) -> Tensor:
        """What is predicted of each patch, [batch, patches, values], from those before it."""
        model = self.model
        content = model.norm_pre(model._pos_embed(model.patch_embed(images)))
        queries = model.pos_embed[:, 1:].expand(len(images), -1, -1)
        content_mask, query_mask = order_masks(rank)
        for number, block in enumerate(model.blocks, start=1):
            if model.grad_checkpointing:
                content = checkpoint(block, content, content_mask, use_reentrant=False)
            else:
                content = block(content, content_mask)
            if number % self.every == 0:
                query_block = self.query_blocks[number // self.every - 1]
                queries = query_block(queries, content, query_mask)
        return self.predict(model.norm(queries))

    def _blurred(self, images: Tensor) -> Tensor:
        if not self.options.blur:
            return images
        sigma = torch.full((1,), self.options.blur, device=images.device)
        rows, columns = (numbers.blur_matrix(sigma, side) for side in images.shape[2:])
        with exact(images.device):
            return rows @ images @ columns.mT

    def after_update(self, progress: float) -> None:
        if self.teacher is not None:
            follow(self.teacher, self.model, self.options.teacher_momentum)

    def files(self) -> Iterator[tuple[str, bytes]]:
        return self.encoder.files(IMAGENET_MEAN, IMAGENET_STD)


def _check(model: nn.Module) -> None:
    """Raise SluiceError for a network without the tokens and positions this objective needs."""
    if not (
        isinstance(model, VisionTransformer)
        and model.cls_token is not None
        and model.pos_embed is not None
        and model.num_prefix_tokens == 1
        and not model.no_embed_class
    ):
        raise SluiceError(
            f"semaim cannot train this {type(model).__name__}: it orders patches by their class "
            "token and hides them by attention masks",
            "use a vision transformer of timm with a class token, absolute positions and no "
            "registers: vit_tiny_patch16_224, ...",
        )


def build(settings: TrainSettings) -> Semaim:
    assert isinstance(settings.options, SemaimOptions)
    encoder = build_encoder(settings)
    slow = settings.options.target == "features"
    return Semaim(settings, encoder, build_encoder(settings) if slow else None)
