from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from infra.errors import SluiceError
from pretrain.objectives.mae import Mae, build, mae_loss, patchify, sincos
from tests.pretrain.batches import batch

CPU = torch.device("cpu")


@pytest.fixture
def mae(small: Callable[..., Any]) -> Mae:
    return build(small("mae"))


def test_patches_are_cut_row_by_row() -> None:
    images = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).view(2, 3, 4, 6)
    patches = patchify(images, 2)
    assert patches.shape == (2, 6, 12)
    corner = images[1, :, 2:4, 4:6]  # the last patch of the second image
    assert torch.equal(patches[1, 5].view(2, 2, 3), corner.permute(1, 2, 0))
    assert torch.equal(patches[0, 1].view(2, 2, 3), images[0, :, 0:2, 2:4].permute(1, 2, 0))


@pytest.mark.parametrize("normalize", [True, False])
def test_the_loss_is_the_direct_formula(normalize: bool) -> None:
    rng = np.random.default_rng(0)
    predicted, patches = rng.normal(size=(2, 4, 12)), rng.normal(2, 3, size=(2, 4, 12))
    hidden = np.asarray([[1, 0, 1, 1], [0, 1, 1, 0]])
    errors = []
    for image in range(2):
        for place in range(4):
            wanted = patches[image, place]
            if normalize:
                wanted = (wanted - wanted.mean()) / np.sqrt(wanted.var(ddof=1) + 1e-6)
            if hidden[image, place]:
                errors.append(((predicted[image, place] - wanted) ** 2).mean())
    loss = mae_loss(
        torch.from_numpy(predicted),
        torch.from_numpy(patches),
        torch.from_numpy(hidden).float(),
        normalize,
    )
    assert loss.item() == pytest.approx(np.mean(errors), rel=1e-6)


def test_positions_are_sines_and_cosines() -> None:
    table = sincos(16, (2, 3), 1)[0]
    assert table.shape == (7, 16)
    assert (table[0] == 0).all()
    column, row = 2, 1
    place = 1 + row * 3 + column
    frequencies = [10000 ** (-k / 4) for k in range(4)]
    assert table[place, :4].tolist() == pytest.approx([np.sin(column * f) for f in frequencies])
    assert table[place, 4:8].tolist() == pytest.approx([np.cos(column * f) for f in frequencies])
    assert table[place, 8:12].tolist() == pytest.approx([np.sin(row * f) for f in frequencies])
    with pytest.raises(SluiceError, match="divide by 4"):
        sincos(18, (2, 2), 0)


def test_the_encoder_sees_a_quarter_and_nothing_else(mae: Mae) -> None:
    found = mae.views(batch(3), CPU)
    images, order = found["images"], found["order"]
    assert (mae.count, mae.keep) == (16, 4)
    assert sorted(order[0].tolist()) == list(range(16))
    assert order[0].tolist() != order[1].tolist()
    tokens = mae._encode(images, order[:, :4])
    assert tokens.shape == (3, 1 + 4, 24)
    changed = images.clone()
    for image in range(3):
        for place in order[image, 4:].tolist():
            y, x = divmod(place, 4)
            changed[image, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] += 1.0
    assert torch.equal(mae._encode(changed, order[:, :4]), tokens)
    y, x = divmod(int(order[0, 0]), 4)
    changed[0, :, 8 * y, 8 * x] += 1.0
    assert not torch.equal(mae._encode(changed, order[:, :4])[0], tokens[0])


def test_hidden_patches_are_those_the_encoder_did_not_see(mae: Mae) -> None:
    """A decoder that told each visible patch exactly would still lose on all others."""
    found = mae.views(batch(2), CPU)
    back = found["order"].argsort(1)
    for image in range(2):
        visible = [place for place in range(16) if back[image, place] < mae.keep]
        assert sorted(visible) == sorted(found["order"][image, : mae.keep].tolist())
    assert torch.isfinite(mae(found, 0.0)[0])


def test_masks_depend_on_the_position_of_the_sample_alone(mae: Mae) -> None:
    whole = mae.views(batch(6), CPU)["order"]
    assert torch.equal(mae.views(batch(4, first=2), CPU)["order"], whole[2:])


def test_positions_stay_and_everything_else_learns(mae: Mae) -> None:
    mae(mae.views(batch(4), CPU), 0.0)[0].backward()
    names = {name for name, value in mae.named_parameters() if value.grad is None}
    assert names == {"model.pos_embed"}
    assert not mae.model.pos_embed.requires_grad
    assert torch.equal(mae.model.pos_embed, sincos(24, (4, 4), 1))


def test_the_encoder_may_take_flexible_sizes_or_no_class_token(small: Callable[..., Any]) -> None:
    base = small("mae").model_kwargs
    for extra in ({"dynamic_img_size": True}, {"class_token": False, "global_pool": "avg"}):
        mae = build(small("mae", model_kwargs={**base, **extra}))
        assert torch.isfinite(mae(mae.views(batch(2), CPU), 0.0)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "test_resnet", "model_kwargs": {}}, "cannot train a ResNet"),
        ({"model_kwargs": {"reg_tokens": 2, "patch_size": 8}}, "register tokens"),
    ],
)
def test_a_network_that_cannot_drop_patches_is_refused(
    small: Callable[..., Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(SluiceError, match=message):
        build(small("mae", **change))
