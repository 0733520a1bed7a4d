"""Two images in one, and what the label of such an image is.

CutMix, Yun et al. 2019 (arXiv:1905.04899); Mixup, Zhang et al. 2017 (arXiv:1710.09412); TransMix,
Chen et al. 2021 (arXiv:2111.09833); MixPro, Zhao et al. 2023 (arXiv:2304.12043). An image is
mixed with its mirror in the batch, the first with the last. A mix is a map of shares: 1 where a
pixel is the image's own. The same map at the size of patches weighs the attention they get.
"""

from typing import Any

import numpy as np
import torch
from timm.models import checkpoint_seq
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from infra.errors import SluiceError
from pretrain.objectives.base import exact

ATTENDING = frozenset({"transmix", "mixpro"})  # labels by attention


def box_map(numbers: np.ndarray, own: np.ndarray, size: int) -> np.ndarray:
    """CutMix: float32 [batch, size, size], 0 in a box of 1 - own of the area, cut at the edges.

    numbers: uniform [batch, 2], the box's centre; own: [batch], the image's own share.
    """
    half = np.sqrt(1 - own)[:, None] / 2
    centre = numbers * size
    low = np.clip(np.round(centre - half * size), 0, size)
    high = np.clip(np.round(centre + half * size), 0, size)
    place = np.arange(size)
    inside = (place >= low[..., None]) & (place < high[..., None])  # [batch, 2, size]
    return 1.0 - (inside[:, 0, :, None] & inside[:, 1, None, :]).astype(np.float32)


def cell_map(noise: np.ndarray, own: np.ndarray, size: int, cell: int) -> np.ndarray:
    """MaskMix: float32 [batch, size, size] of square cells, a share `own` of them the image's own.

    noise: uniform [batch, cells]; cell: pixels of a side, whole patches, so that each patch is of
    one image; the last cells of a row and column may be cut.
    """
    side = -(-size // cell)
    rank = noise.argsort(1, kind="stable").argsort(1, kind="stable")
    kept = rank < np.round(own * side * side)[:, None]
    cells = kept.reshape(-1, side, side).astype(np.float32)
    return cells.repeat(cell, 1).repeat(cell, 2)[:, :size, :size]


def blend(images: Tensor, own: Tensor) -> Tensor:
    """Each image with its mirror in the batch. own: [batch, height, width], its share of pixels."""
    share = own[:, None]
    return share * images + (1 - share) * images.flip(0)


def attended_share(own: Tensor, attention: Tensor) -> Tensor:
    """Share of its attention that an image's own patches get, [batch].

    own: [batch, height, width]; attention: of patches, [batch, rows, columns]. A patch that is
    partly its own counts so (TransMix takes the nearest pixel).
    """
    patches = functional.adaptive_avg_pool2d(
        own[:, None], (attention.shape[1], attention.shape[2])
    )[:, 0]
    return (patches * attention).sum((1, 2)) / attention.sum((1, 2))


def progress_factor(logits: Tensor, target: Tensor) -> Tensor:
    """MixPro's trust in the attention, [batch]: the cosine of prediction and label by area.

    logits, target: [batch, classes]. Near 0 while the network knows nothing, near 1 at the end.
    """
    return functional.cosine_similarity(logits.softmax(-1), target, dim=-1)


def check_attention(model: Any, mix: str) -> None:
    """Raises SluiceError where a network has no class token whose attention could be read."""
    attention = getattr(model.blocks[-1], "attn", None) if hasattr(model, "blocks") else None
    fit = (
        isinstance(model, VisionTransformer)
        and model.cls_token is not None
        and model.global_pool == "token"
        and isinstance(model.patch_drop, nn.Identity)
        and isinstance(getattr(attention, "qkv", None), nn.Linear)
    )
    if not fit:
        raise SluiceError(
            f"{mix} weighs labels by the attention of a class token, and this "
            f"{type(model).__name__} has none",
            "use a vision transformer of timm with a class token (vit_tiny_patch16_224, ...), or "
            "cutmix and mixup, which any network can take",
        )


def attended(model: VisionTransformer, images: Tensor) -> tuple[Tensor, Tensor]:
    """What `model(images)` gives, and the class token's attention in the last block.

    [batch, width] and [batch, rows, columns], averaged over heads; no gradient through the latter.
    """
    network: Any = model
    tokens = network.norm_pre(network._pos_embed(network.patch_embed(images)))
    lower, last = network.blocks[:-1], network.blocks[-1:]
    if len(lower):
        tokens = checkpoint_seq(lower, tokens) if network.grad_checkpointing else lower(tokens)
    attention = class_attention(last[0], tokens.detach(), network.num_prefix_tokens)
    tokens = checkpoint_seq(last, tokens) if network.grad_checkpointing else last(tokens)
    features = network.forward_head(network.norm(tokens), pre_logits=True)
    size, patch = images.shape[-1], network.patch_embed.patch_size
    return features, attention.view(len(images), size // patch[0], size // patch[1])


@torch.no_grad()
def class_attention(block: Any, tokens: Tensor, prefix: int) -> Tensor:
    """Attention of the first token to the patches, [batch, patches], averaged over heads.

    tokens: what enters the block, [batch, prefix + patches, width].
    """
    attention = block.attn
    shape = (len(tokens), tokens.shape[1], 3, attention.num_heads, attention.head_dim)
    query, key, _ = attention.qkv(block.norm1(tokens)).view(shape).permute(2, 0, 3, 1, 4)
    query, key = attention.q_norm(query[:, :, :1]).float(), attention.k_norm(key).float()
    with exact(tokens.device):
        weights = (query * attention.scale @ key.transpose(-2, -1)).softmax(-1)
    return weights[:, :, 0, prefix:].mean(1)
