import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load

from infra.errors import SluiceError
from pretrain.objectives.semaim import (
    Semaim,
    build,
    feature_loss,
    order_masks,
    semantic_order,
)
from tests.pretrain.batches import batch

CPU = torch.device("cpu")
DEEP = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


@pytest.fixture
def semaim(small: Callable[..., Any]) -> Semaim:
    return build(small("semaim", model_kwargs=DEEP))


def test_the_order_starts_at_the_patch_most_like_the_class_token() -> None:
    rng = np.random.default_rng(0)
    tokens, ties = rng.normal(size=(5, 1 + 12, 6)), rng.random((5, 12))
    rank = semantic_order(torch.from_numpy(tokens), (3, 4), torch.from_numpy(ties)).numpy()
    for image in range(5):
        first, patches = tokens[image, 0], tokens[image, 1:]
        cosine = patches @ first / np.linalg.norm(patches, axis=1) / np.linalg.norm(first)
        y, x = divmod(int(cosine.argmax()), 4)
        far = {place: np.hypot(place // 4 - y, place % 4 - x) for place in range(12)}
        expected = sorted(far, key=lambda place: (round(far[place], 9), ties[image, place]))
        assert rank[image].argsort().tolist() == expected
        assert rank[image, 4 * y + x] == 0


def test_a_token_sees_what_comes_before_it_and_content_itself() -> None:
    rank = torch.tensor([[2, 0, 1], [0, 1, 2]])
    content, queries = order_masks(rank)
    assert content.shape == (2, 1, 4, 4)
    assert queries.shape == (2, 1, 3, 4)
    for image in range(2):
        assert content[image, 0, 0].tolist() == [True, False, False, False]
        for own in range(3):
            assert queries[image, 0, own, 0]
            assert content[image, 0, own + 1, 0]
            for other in range(3):
                before = bool(rank[image, other] < rank[image, own])
                assert queries[image, 0, own, other + 1] == before
                assert content[image, 0, own + 1, other + 1] == (before or own == other)


def test_a_patch_is_predicted_from_those_before_it_alone(semaim: Semaim) -> None:
    images = torch.randn(1, 3, 32, 32)
    rank = torch.randperm(16, generator=torch.Generator().manual_seed(1))[None]
    before = semaim._predict(images, rank)
    for place in (0, 5, int(rank[0].argmin()), int(rank[0].argmax())):
        y, x = divmod(place, 4)
        changed = images.clone()
        changed[:, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] += 1
        moved = (semaim._predict(changed, rank) != before).any(-1)[0]
        assert moved.tolist() == (rank[0] > rank[0, place]).tolist()


def test_the_loss_is_the_direct_formula(semaim: Semaim, monkeypatch: pytest.MonkeyPatch) -> None:
    """All patches count, normalised after a blur with a standard deviation of one pixel."""
    views = semaim.views(batch(2), CPU)
    predicted = torch.randn(2, 16, 192, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(semaim, "_predict", lambda images, rank: predicted)
    place = np.arange(32)
    blur = np.exp(-0.5 * (place[:, None] - place) ** 2)
    blur /= blur.sum(1, keepdims=True)
    errors: list[float] = []
    for image, guess in zip(views["images"].double().numpy(), predicted.numpy(), strict=True):
        soft = np.stack([blur @ channel @ blur.T for channel in image])
        for patch in range(16):
            y, x = divmod(patch, 4)
            wanted = soft[:, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].transpose(1, 2, 0).ravel()
            wanted = (wanted - wanted.mean()) / np.sqrt(wanted.var(ddof=1) + 1e-6)
            errors.append(((guess[patch] - wanted) ** 2).mean())
    assert semaim(views, 0.0)[0].item() == pytest.approx(np.mean(errors), rel=1e-4)


def test_the_loss_on_features_is_of_their_cosines() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 3, 5))
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    expected = (2 - 2 * (first * second).sum(-1) / lengths).mean()
    found = feature_loss(torch.from_numpy(first), torch.from_numpy(second))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_the_teacher_of_features_follows_and_gets_no_gradient(small: Callable[..., Any]) -> None:
    options = {"target": "features", "teacher_momentum": 0.9}
    semaim = build(small("semaim", model_kwargs=DEEP, options=options))
    assert semaim.teacher is not None
    before = semaim.teacher.blocks[0].mlp.fc1.weight.clone()
    loss, _ = semaim(semaim.views(batch(2), CPU), 0.0)
    loss.backward()
    assert all(parameter.grad is None for parameter in semaim.teacher.parameters())
    student = semaim.model.blocks[0].mlp.fc1.weight
    assert student.grad is not None
    with torch.no_grad():
        student += 1
    semaim.after_update(0.0)
    torch.testing.assert_close(semaim.teacher.blocks[0].mlp.fc1.weight, before + 0.1)


def test_the_order_comes_from_the_network_and_has_no_gradient(semaim: Semaim) -> None:
    views = semaim.views(batch(3), CPU)
    semaim(views, 0.0)[0].backward()
    names = {name for name, value in semaim.named_parameters() if value.grad is None}
    assert names == {"model.pos_embed"}
    again = semaim.views(batch(2, first=1), CPU)
    assert torch.equal(again["ties"], views["ties"][1:])


@pytest.mark.parametrize("target", ["pixels", "features"])
def test_the_loss_falls(small: Callable[..., Any], target: str) -> None:
    semaim = build(small("semaim", options={"target": target}))
    views = semaim.views(batch(4), CPU)
    optimizer = torch.optim.AdamW(semaim.trained(), lr=3e-3)
    losses: list[float] = []
    for _ in range(20):
        loss, _ = semaim(views, 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        semaim.after_update(0.0)
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


def test_checkpointing_changes_no_gradient(semaim: Semaim) -> None:
    views = semaim.views(batch(2), CPU)
    found: list[torch.Tensor] = []
    for checkpointing in (False, True):
        semaim.model.set_grad_checkpointing(checkpointing)
        semaim.zero_grad()
        semaim(views, 0.0)[0].backward()
        found.append(torch.cat([p.grad.flatten() for p in semaim.trained() if p.grad is not None]))
    torch.testing.assert_close(*found)


def test_the_encoder_is_a_plain_network(semaim: Semaim) -> None:
    files = dict(semaim.eval().files())
    config = json.loads(files["config.json"])
    model = timm.create_model(config["timm_name"], **config["timm_kwargs"]).eval()
    model.load_state_dict(load(files["model.safetensors"]), strict=True)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), semaim.model(images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "test_resnet", "model_kwargs": {}}, "cannot train this ResNet"),
        ({"model_kwargs": {**DEEP, "reg_tokens": 2}}, "no registers"),
        ({"model_kwargs": {**DEEP, "class_token": False, "global_pool": "avg"}}, "class token"),
        ({"model_kwargs": DEEP, "options": {"query_depth": 3}}, "does not divide the 2 blocks"),
    ],
)
def test_what_does_not_go_together_is_refused(
    small: Callable[..., Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(SluiceError, match=message):
        build(small("semaim", **change))
