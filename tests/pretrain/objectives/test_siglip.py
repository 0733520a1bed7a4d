import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.loss import SigLipLoss
from pydantic import ValidationError
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.data import Source
from pretrain.job import Job
from pretrain.loop import Trainer, deterministic
from pretrain.objectives import clip
from pretrain.objectives.siglip import accuracy, build, siglip_loss
from pretrain.settings import TrainSettings
from pretrain.texts import encode_text
from tests.pretrain.batches import batch


def unit(count: int, width: int, seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, width, generator=rng), dim=1)


def graded(count: int, chunk: int | None, bias: float = -3.0) -> list[torch.Tensor]:
    """The loss and its gradients by images, texts, scale and bias."""
    given = [unit(count, 5, 0), unit(count, 5, 1), torch.tensor(6.0), torch.tensor(bias)]
    given = [value.requires_grad_(True) for value in given]
    loss = siglip_loss(given[0], given[1], given[2], given[3], chunk)
    return [loss.detach(), *torch.autograd.grad(loss, given)]


@pytest.mark.parametrize("chunk", [None, 1, 3, 7, 100])
def test_the_loss_and_its_gradients_are_the_direct_formulas(chunk: int | None) -> None:
    image, text = unit(7, 5, 0).double().numpy(), unit(7, 5, 1).double().numpy()
    logits = 6.0 * image @ text.T - 3.0
    signs = 2 * np.eye(7) - 1
    loss = sum(
        math.log(1 + math.exp(-signs[i, j] * logits[i, j])) for i in range(7) for j in range(7)
    )
    by_logit = -signs / (1 + np.exp(signs * logits)) / 7
    found = [value.double().numpy() for value in graded(7, chunk)]
    assert found[0] == pytest.approx(loss / 7, rel=1e-6)
    np.testing.assert_allclose(found[1], 6.0 * by_logit @ text, atol=1e-6)
    np.testing.assert_allclose(found[2], 6.0 * by_logit.T @ image, atol=1e-6)
    assert found[3] == pytest.approx((by_logit * (image @ text.T)).sum(), abs=1e-6)
    assert found[4] == pytest.approx(by_logit.sum(), abs=1e-6)


def test_the_loss_is_open_clips() -> None:
    image, text = unit(6, 4, 0), unit(6, 4, 1)
    scale, bias = torch.tensor(10.0), torch.tensor(-10.0)
    expected = SigLipLoss()(image, text, scale, bias)
    assert siglip_loss(image, text, scale, bias).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("bias", [-300.0, 300.0])
def test_far_logits_stay_numbers(bias: float) -> None:
    for value in (*graded(4, None, bias), *graded(4, 2, bias)):
        assert torch.isfinite(value).all()


class Largest(TorchDispatchMode):
    """The most values of any tensor that is made."""

    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor):
            self.values = max(self.values, found.numel())
        return found


def kept(chunk: int | None, count: int) -> int:
    """Values that wait for the backward pass."""
    held: dict[int, torch.UntypedStorage] = {}

    def pack(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        held[storage.data_ptr()] = storage
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        graded(count, chunk)
    return sum(storage.nbytes() // 4 for storage in held.values())


def test_chunks_take_memory_for_their_rows_alone() -> None:
    """Forth and back: 200 x 200 similarities are never there at once, nor are they kept."""
    most: dict[int | None, int] = {}
    for chunk in (None, 10):
        with Largest() as largest:
            graded(200, chunk)
        most[chunk] = largest.values
    assert most == {None: 200 * 200, 10: 10 * 200}
    assert kept(10, 200) < 200 * 20 < 200 * 200 < kept(None, 200)


def test_accuracy_is_by_the_nearest_text() -> None:
    text = torch.eye(4)
    image = torch.eye(4)[[0, 1, 3, 2]]
    for chunk in (None, 1, 3):
        assert accuracy(image, text, chunk) == 0.5


def test_scale_and_bias_start_as_published_and_are_learned(small: Callable[..., Any]) -> None:
    siglip = build(small("siglip", options={}))
    assert siglip.model.logit_scale.exp().item() == pytest.approx(10)
    assert siglip.model.logit_bias.item() == -10
    learned = {id(value) for value in siglip.trained()}
    assert {id(siglip.model.logit_scale), id(siglip.model.logit_bias)} <= learned
    other = build(small("siglip", options={"init_scale": 1 / 0.07, "init_bias": -5}))
    assert other.model.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    assert other.model.logit_bias.item() == -5
    config = json.loads(dict(siglip.files())["open_clip_config.json"])["model_cfg"]
    assert config["init_logit_bias"] == -10


def test_a_clip_to_start_from_gets_a_bias(small: Callable[..., Any], tmp_path: Path) -> None:
    """open_clip puts a bias of 0 where weights have none: half of all pairs would be found."""
    for path, data in clip.build(small("clip")).files():
        (tmp_path / path).write_bytes(data)
    options = {"init_scale": 12.0, "init_bias": -9.0}
    siglip = build(small("siglip", pretrained=str(tmp_path), options=options))
    assert siglip.model.logit_bias.item() == -9
    assert siglip.model.logit_scale.exp().item() == pytest.approx(12)
    folder = tmp_path / "siglip"
    folder.mkdir()
    for path, data in siglip.files():
        (folder / path).write_bytes(data)
    again = build(small("siglip", pretrained=str(folder)))
    assert again.model.logit_bias.item() == -9


def test_prefixes_are_embeddings_of_their_own(small: Callable[..., Any]) -> None:
    siglip = build(small("siglip", options={"prefixes": [4], "init_bias": -1.0}))
    found = siglip.views(batch(6), torch.device("cpu"))
    loss, figures = siglip(found, 0.0)
    image, text = (
        siglip.model.encode_image(found["images"]),
        encode_text(siglip.model, found["tokens"]),
    )
    expected = [
        siglip_loss(
            normalize(image[:, :width], dim=1),
            normalize(text[:, :width], dim=1),
            torch.tensor(10.0),
            torch.tensor(-1.0),
        )
        for width in (4, 16)
    ]
    assert loss.item() == pytest.approx((expected[0] + expected[1]).item() / 2, rel=1e-5)
    assert figures["loss_4"].item() == pytest.approx(expected[0].item(), rel=1e-5)


def test_training_lowers_the_loss(pairs: str, small: Callable[..., Any], tmp_path: Path) -> None:
    settings = small("siglip", steps=30, options={"init_bias": -2.0})
    with deterministic(1):
        trainer = Trainer(Job(str(tmp_path), "d", settings, (Source(pairs),)))
        trainer.train(lambda step, note: None)
    losses = [json.loads(line)["loss"] for line in trainer.metrics]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3])


def test_a_batch_of_one_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 2"):
        TrainSettings.model_validate({"objective": "siglip", "batch": 1})
