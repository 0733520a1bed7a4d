import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load

from infra.errors import SluiceError
from pretrain.masked_images import enlarge
from pretrain.objectives.simmim import Simmim, _mask_patch, build, simmim_loss
from tests.pretrain.batches import batch
from tests.pretrain.networks import SWIN

CPU = torch.device("cpu")


@pytest.fixture(params=[{}, SWIN], ids=["vit", "swin"])
def simmim(request: Any, small: Callable[..., Any]) -> Simmim:
    return build(small("simmim", **request.param))


def test_the_loss_is_the_direct_formula() -> None:
    rng = np.random.default_rng(0)
    predicted, images = rng.normal(size=(2, 3, 4, 4)), rng.normal(size=(2, 3, 4, 4))
    hidden = rng.random((2, 4, 4)) < 0.5
    total = 0.0
    for image, y, x in zip(*hidden.nonzero(), strict=True):
        total += sum(abs(predicted[image, c, y, x] - images[image, c, y, x]) for c in range(3))
    loss = simmim_loss(*map(torch.from_numpy, (predicted, images, hidden.astype(float))))
    assert loss.item() == pytest.approx(total / (hidden.sum() + 1e-5) / 3, rel=1e-12)


def test_the_share_of_hidden_cells_is_rounded_up(simmim: Simmim) -> None:
    views = simmim.views(batch(3), CPU)
    hidden = views["hidden"]
    cells = simmim.side**2
    assert hidden.shape == (3, simmim.side, simmim.side)
    assert hidden.sum((1, 2)).tolist() == [int(np.ceil(0.6 * cells))] * 3
    assert not torch.equal(hidden[0], hidden[1])
    assert torch.equal(simmim.views(batch(2, first=1), CPU)["hidden"], hidden[1:])


@pytest.mark.parametrize(
    ("stated", "size", "patch", "expected"),
    [
        (None, 224, 16, 32),  # as published
        (None, 224, 4, 32),
        (32, 192, 4, 32),
        (None, 64, 8, 8),
        (None, 32, 4, 4),
        (16, 64, 8, 16),
    ],
)
def test_cells_are_whole_patches(stated: int | None, size: int, patch: int, expected: int) -> None:
    assert _mask_patch(stated, size, patch) == expected


@pytest.mark.parametrize(("stated", "size", "patch"), [(12, 64, 8), (48, 64, 8), (None, 16, 16)])
def test_other_cells_are_refused(stated: int | None, size: int, patch: int) -> None:
    with pytest.raises(SluiceError, match=f"options.mask_patch is {stated}"):
        _mask_patch(stated, size, patch)


def encode(simmim: Simmim, images: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    return simmim._encode(images, enlarge(hidden, simmim.grid, simmim.grid), simmim.mask_token)


def test_the_encoder_sees_nothing_under_the_mask_and_all_beside_it(simmim: Simmim) -> None:
    views = simmim.views(batch(2), CPU)
    images, hidden = views["images"], views["hidden"]
    covered = enlarge(hidden, 32, 32)[:, None]
    before = encode(simmim, images, hidden)
    assert torch.equal(encode(simmim, images + 5 * covered, hidden), before)
    for y, x in (~hidden[0]).nonzero().tolist():
        changed, side = images.clone(), 32 // simmim.side
        changed[0, :, y * side : y * side + side, x * side : x * side + side] += 1
        assert not torch.equal(encode(simmim, changed, hidden)[0], before[0])
    assert simmim.decoder(before).shape == images.shape


def test_nothing_hidden_is_the_plain_network(simmim: Simmim) -> None:
    simmim.eval()
    images = torch.randn(2, 3, 32, 32)
    output = encode(simmim, images, torch.zeros(2, simmim.side, simmim.side, dtype=torch.bool))
    tokens = simmim.model.forward_features(images)
    if tokens.ndim == 3:
        tokens = tokens[:, 1:].unflatten(1, (4, 4))
    torch.testing.assert_close(output, tokens.permute(0, 3, 1, 2))


def test_pixels_of_a_place_come_from_that_place(small: Callable[..., Any]) -> None:
    simmim = build(small("simmim"))
    features = torch.randn(1, 24, 4, 4)
    before = simmim.decoder(features)
    features[0, :, 1, 2] += 1
    changed = (simmim.decoder(features) != before).any(1)[0]
    assert changed[8:16, 16:24].all()
    assert changed.sum() == 64


def test_calls_that_overlap_keep_their_masks_under_checkpointing_too(simmim: Simmim) -> None:
    calls = [simmim.views(batch(2, first=first), CPU) for first in (0, 2)]

    def gradients(losses: list[torch.Tensor]) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        for loss in losses:
            simmim.zero_grad()
            loss.backward()
            found.append(torch.cat([parameter.grad.flatten() for parameter in simmim.trained()]))
        return found

    alone = [gradients([simmim(views, 0.0)[0]])[0] for views in calls]
    simmim.model.set_grad_checkpointing(True)
    for found, expected in zip(
        gradients([simmim(views, 0.0)[0] for views in calls]), alone, strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_compiled_it_gives_the_same(simmim: Simmim) -> None:
    simmim.eval()
    compiled = partial(torch.compile, backend="eager")(simmim)
    for first in (0, 4):
        views = simmim.views(batch(2, first=first), CPU)
        assert torch.equal(compiled(views, 0.0)[0], simmim(views, 0.0)[0])


def test_everything_learns_and_the_loss_falls(simmim: Simmim) -> None:
    views = simmim.views(batch(2), CPU)
    optimizer = torch.optim.AdamW(simmim.trained(), lr=3e-3)
    losses: list[float] = []
    for _ in range(12):
        loss, _ = simmim(views, 0.0)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in simmim.trained())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.98 * losses[0]


def test_the_encoder_is_a_plain_network(simmim: Simmim) -> None:
    files = dict(simmim.eval().files())
    config = json.loads(files["config.json"])
    model = timm.create_model(config["timm_name"], **config["timm_kwargs"]).eval()
    model.load_state_dict(load(files["model.safetensors"]), strict=True)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), simmim.model(images))


@pytest.mark.parametrize("model", ["test_resnet", "test_convnext"])
def test_a_network_without_patches_is_refused(small: Callable[..., Any], model: str) -> None:
    with pytest.raises(SluiceError, match=r"simmim cannot train a .*patch_embed"):
        build(small("simmim", model=model, model_kwargs={}))
