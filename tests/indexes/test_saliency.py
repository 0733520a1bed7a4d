"""Importance of patches: worked by hand on a network of one layer; on real ones its limits."""

from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch import nn

from indexes.encoder import ClipEncoder
from indexes.preprocess import Preprocess
from indexes.saliency import patch_importance

SIDE = 32
TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
NETWORKS: dict[str, dict[str, Any]] = {
    "transformer": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "transformer, averaged": {
        "layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "pool_type": "avg",
    },
    "resnet": {"layers": [1, 1, 1, 1], "width": 16, "head_width": 16},
    "timm resnet": {  # divides by 32: of 32 pixels one place would be left
        "timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear",
        "image_size": 2 * SIDE,
    },
    "timm transformer": {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear"},
}  # fmt: skip


def encoder_of(model: Any, side: int = SIDE) -> ClipEncoder:
    plain = Preprocess((side, side), (0.0,) * 3, (1.0,) * 3)
    model.eval().requires_grad_(False)
    tokenizer = open_clip.get_tokenizer("ViT-B-32", context_length=8)
    return ClipEncoder(
        model, tokenizer, plain, {"model_cfg": {"embed_dim": 2}}, torch.device("cpu")
    )


class Places(nn.Module):
    """Mean colour of each of 2 x 2 places, joined by their mean: no more than Grad-CAM needs."""

    def __init__(self, joins: bool) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2)
        if joins:
            self.attnpool = nn.AdaptiveAvgPool2d(1)
        self.joins = joins

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        places = self.pool(pixels)
        joined = self.attnpool(places) if self.joins else places.mean((2, 3), keepdim=True)
        return joined[:, :2, 0, 0]


class ByHand(nn.Module):
    """Two numbers of an image, mean red and mean green; every text points at red."""

    def __init__(self, joins: bool) -> None:
        super().__init__()
        self.visual = Places(joins)

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.visual(pixels)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0]]).expand(len(tokens), 2)


def quarters() -> np.ndarray:
    """Red, green, both and black quarters."""
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    half = SIDE // 2
    image[:half, :half, 0] = image[:half, half:, 1] = 255
    image[half:, :half, :2] = 255
    return image


def test_importance_by_hand() -> None:
    # Means are r = g = 1/2. The gradient of r / |(r, g)| is (g^2, -r g) / |..|^3 = (s, -s) at each
    # place, so a place weighs s times red less green: 1, -1, 0 and 0; from the least on 2, 0, 1, 1.
    found = patch_importance(encoder_of(ByHand(True)), [quarters()], ["red"], 2)[0]
    assert found == pytest.approx(np.array([2, 0, 1, 1]) * found[2], rel=1e-3) and found[2] > 0
    # without a known last layer every pixel moves the mean alike: nothing stands out
    flat = patch_importance(encoder_of(ByHand(False)), [quarters()], ["red"], 2)[0]
    assert flat == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_of_every_kind(network: str) -> None:
    torch.manual_seed(0)
    vision: Any = {"image_size": SIDE} | NETWORKS[network]
    text: Any = TEXT
    encoder = encoder_of(open_clip.CLIP(16, vision, text), vision["image_size"])
    encoder.config = {"model_cfg": {"embed_dim": 16}}
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40, 30 + n, 3), np.uint8) for n in range(5)]
    images.append(np.full((40, 40, 3), 7, np.uint8))
    texts = [f"text {n}" for n in range(6)]
    found = patch_importance(encoder, images, texts, 14)
    assert found.shape == (6, 196) and np.isfinite(found).all() and (found >= 0).all()
    assert (found.min(axis=1) == 0).all() and (found[:5].max(axis=1) > 0).all()
    again = patch_importance(encoder, images[::-1], texts[::-1], 14)[::-1]
    assert (found == again).all()
    assert len(patch_importance(encoder, [], [], 14)) == 0
