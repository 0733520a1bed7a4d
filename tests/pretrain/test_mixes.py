from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from infra.errors import SluiceError
from pretrain import mixes
from pretrain.augment import betas

RNG = np.random.default_rng(0)


def vit(**changes: Any) -> Any:
    kwargs = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, **{**kwargs, **changes})


def test_a_box_has_the_asked_area_but_for_the_edges() -> None:
    own = np.asarray([0.75, 0.5, 0.0, 1.0])
    centre = np.asarray([[0.5, 0.5], [0.0, 0.0], [0.5, 0.5], [0.5, 0.5]])
    maps = mixes.box_map(centre, own, 32)
    assert maps.shape == (4, 32, 32) and set(np.unique(maps)) == {0.0, 1.0}
    assert maps[0].mean() == 0.75
    assert (maps[0, 8:24, 8:24] == 0).all()
    assert maps[1].mean() == pytest.approx(1 - 0.5 / 4, abs=0.01)  # three quarters are cut off
    assert (maps[2] == 0).all() and (maps[3] == 1).all()


def test_each_cell_of_a_mask_is_of_one_image() -> None:
    own = np.asarray([0.0, 0.25, 0.5, 1.0])
    maps = mixes.cell_map(RNG.random((4, 16)), own, 32, 8)
    cells = maps.reshape(4, 4, 8, 4, 8)
    assert (cells.min((2, 4)) == cells.max((2, 4))).all()
    assert maps.mean((1, 2)).tolist() == own.tolist()
    cut = mixes.cell_map(RNG.random((1, 9)), np.asarray([0.5]), 40, 16)
    assert cut.shape == (1, 40, 40)


def test_an_image_is_mixed_with_its_mirror_in_the_batch() -> None:
    images = torch.from_numpy(RNG.random((3, 3, 8, 8), dtype=np.float32))
    own = torch.from_numpy(RNG.integers(0, 2, (3, 8, 8)).astype(np.float32))
    found = mixes.blend(images, own)
    for row in range(3):
        mine = own[row].bool().expand(3, -1, -1)
        assert torch.equal(found[row][mine], images[row][mine])
        assert torch.equal(found[row][~mine], images[2 - row][~mine])


def test_shares_are_of_the_beta_distribution_and_of_the_place_alone() -> None:
    drawn = betas(("key",), np.arange(500), 0.8)
    assert drawn.mean() == pytest.approx(0.5, abs=0.05)
    assert drawn.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.01)
    assert betas(("key",), np.arange(3, 5), 0.8).tolist() == drawn[3:5].tolist()


def by_hand(model: Any, tokens: np.ndarray) -> np.ndarray:
    """softmax(q k / sqrt(d)) of the class token, one image and one head after the other."""
    attention = model.blocks[-1].attn
    weight, bias = (value.detach().double().numpy() for value in attention.qkv.parameters())
    heads, size = attention.num_heads, attention.head_dim
    rows = []
    for image in tokens:
        mean, var = image.mean(-1, keepdims=True), image.var(-1, keepdims=True)
        values = ((image - mean) / np.sqrt(var + model.blocks[-1].norm1.eps)) @ weight.T + bias
        maps = []
        for head in range(heads):
            query = values[0, head * size : head * size + size]
            keys = values[:, heads * size + head * size :][:, :size]
            scores = np.exp(keys @ query / np.sqrt(size))
            maps.append(scores / scores.sum())
        rows.append(np.mean(maps, 0)[1:])
    return np.asarray(rows)


def test_attention_is_the_direct_formula_and_the_vector_is_the_networks_own() -> None:
    model = vit().eval()
    images = torch.from_numpy(RNG.normal(size=(2, 3, 32, 32)).astype(np.float32))
    with torch.no_grad():
        features, attention = mixes.attended(model, images)
        entering = model.blocks[0](model._pos_embed(model.patch_embed(images)))
        assert torch.equal(features, model(images))
    expected = by_hand(model, entering.double().numpy()).reshape(2, 4, 4)
    np.testing.assert_allclose(attention.numpy(), expected, atol=1e-6)
    assert not attention.requires_grad


@pytest.mark.parametrize("depth", [1, 3])
def test_gradients_are_the_same_where_activations_are_not_kept(depth: int) -> None:
    model, images = vit(depth=depth), torch.randn(2, 3, 32, 32)
    grads: list[Tensor] = []
    for keep in (False, True):
        model.set_grad_checkpointing(keep)
        model.zero_grad()
        mixes.attended(model, images)[0].square().sum().backward()
        grads.append(model.patch_embed.proj.weight.grad.clone())
    torch.testing.assert_close(grads[0], grads[1])


def test_attention_on_ones_own_patches_is_the_share() -> None:
    own = torch.ones(3, 8, 8)
    own[0] = 0
    own[2, :, 4:] = 0
    attention = torch.tensor([[1.0, 3.0], [1.0, 3.0]]).expand(3, 2, 2)
    assert mixes.attended_share(own, attention).tolist() == [0.0, 1.0, 0.25]


def test_trust_in_attention_grows_with_the_prediction() -> None:
    target = torch.tensor([[0.6, 0.4, 0.0, 0.0]])
    none = mixes.progress_factor(torch.tensor([[-9.0, -9.0, 5.0, 5.0]]), target)
    full = mixes.progress_factor(target.clamp(min=1e-9).log(), target)
    assert none < 1e-5 and full == pytest.approx(1, abs=1e-6)
    prediction = np.exp([1.0, 2.0, 0.0, -1.0])
    cosine = prediction @ target[0].numpy() / np.linalg.norm(prediction) / np.sqrt(0.52)
    found = mixes.progress_factor(torch.tensor([[1.0, 2.0, 0.0, -1.0]]), target)
    assert found.item() == pytest.approx(cosine, rel=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        timm.create_model("test_resnet", num_classes=0),
        vit(class_token=False, global_pool="avg"),
        vit(global_pool="avg"),
    ],
)
def test_a_network_without_a_class_token_that_learns_is_refused(model: Any) -> None:
    with pytest.raises(SluiceError, match="transmix weighs labels by the attention of a class"):
        mixes.check_attention(model, "transmix")
