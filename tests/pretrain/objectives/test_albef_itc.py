import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import normalize

from pretrain.data import Source
from pretrain.job import Job
from pretrain.loop import Trainer, deterministic
from pretrain.objectives.albef_itc import AlbefItc, build, distilled, enqueue
from pretrain.settings import TrainSettings
from pretrain.texts import unit_text
from tests.pretrain.batches import batch


def unit(count: int, width: int, seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, width, generator=rng), dim=1)


def direct(
    queries: np.ndarray, slow: np.ndarray, keys: np.ndarray, scale: float, alpha: float
) -> float:
    """Row by row, in float64; a row's own key is the one of its number."""
    total = 0.0
    for row in range(len(queries)):
        found, wanted = scale * keys @ queries[row], scale * keys @ slow[row]
        target = alpha * np.exp(wanted) / np.exp(wanted).sum()
        target[row] += 1 - alpha
        total -= (target * (found - np.log(np.exp(found).sum()))).sum()
    return total / len(queries)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_the_loss_is_the_direct_formula(alpha: float) -> None:
    queries, slow, keys = unit(3, 5, 0), unit(3, 5, 1), unit(8, 5, 2)
    loss, logits = distilled(queries, slow, keys, torch.arange(3), torch.tensor(7.0), alpha)
    expected = direct(*(value.double().numpy() for value in (queries, slow, keys)), 7.0, alpha)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert logits.shape == (3, 8)


def test_targets_have_no_gradient() -> None:
    """Neither has the scale by way of them: d loss / d scale is that of fixed targets."""
    queries, slow, keys = unit(3, 5, 0), unit(3, 5, 1).requires_grad_(), unit(8, 5, 2)
    scale = torch.tensor(7.0, requires_grad=True)
    distilled(queries, slow, keys, torch.arange(3), scale, 0.4)[0].backward()
    assert slow.grad is None and scale.grad is not None
    similar = queries @ keys.T
    target = 0.4 * (7 * slow @ keys.T).softmax(1) + 0.6 * torch.eye(3, 8)
    expected = (((7 * similar).softmax(1) - target) * similar).sum(1).mean()
    assert scale.grad.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_a_queue_goes_round_whatever_divides_it(count: int) -> None:
    queue, place, written = torch.full((5, 1), -1.0), torch.tensor(0), []
    for start in range(0, 4 * count, count):
        fresh = torch.arange(start, start + count).float()[:, None]
        enqueue(queue, fresh, place)
        place.add_(count).remainder_(5)
        written += fresh[:, 0].tolist()
        last = {index % 5: value for index, value in enumerate(written)}
        assert queue[:, 0].tolist() == [last.get(index, -1.0) for index in range(5)]


def stepped(albef: AlbefItc, count: int = 8) -> tuple[dict[str, Any], torch.Tensor]:
    found = albef.views(batch(count), torch.device("cpu"))
    loss, _ = albef(found, 0.9)
    loss.backward()
    return found, loss


def test_what_was_embedded_by_the_slow_towers_is_queued(small: Callable[..., Any]) -> None:
    albef = build(small("albef_itc", options={"queue": 20}))
    before = albef.image_queue.clone()
    assert torch.allclose(before.norm(dim=1), torch.ones(20))
    found, _ = stepped(albef)
    expected = albef.slow.encode_image(found["images"], normalize=True)
    assert torch.allclose(albef.image_queue[:8], expected, atol=1e-6)
    assert torch.equal(albef.image_queue[8:], before[8:])
    assert albef.place.item() == 8
    stepped(albef)
    stepped(albef)
    assert albef.place.item() == 4
    assert {"image_queue", "text_queue", "place"} <= albef.state_dict().keys()


def test_the_loss_is_against_batch_and_queue_before_it_is_filled(
    small: Callable[..., Any],
) -> None:
    albef = build(small("albef_itc", options={"queue": 20, "alpha_warmup": 0.0}))
    with torch.no_grad():
        for value in albef.slow.parameters():
            value.mul_(1.1)
    queues = albef.image_queue.clone(), albef.text_queue.clone()
    found, loss = stepped(albef)
    vectors = []
    with torch.no_grad():
        for model in (albef.model, albef.slow):
            vectors.append(model.encode_image(found["images"], normalize=True))
            vectors.append(unit_text(model, found["tokens"]))
    image, text, slow_image, slow_text = vectors
    image_keys, text_keys = torch.cat([slow_image, queues[0]]), torch.cat([slow_text, queues[1]])
    halves = ((image, slow_image, text_keys), (text, slow_text, image_keys))
    expected = [
        direct(*(value.double().numpy() for value in half), 1 / 0.07, 0.4) for half in halves
    ]
    assert loss.item() == pytest.approx(sum(expected) / 2, rel=1e-4)


def test_slow_towers_follow_and_are_not_trained(small: Callable[..., Any]) -> None:
    albef = build(small("albef_itc", options={"queue": 20, "momentum": 0.9}))
    assert all(
        torch.equal(slow, fast)
        for slow, fast in zip(albef.slow.parameters(), albef.model.parameters(), strict=True)
    )
    stepped(albef)
    assert all(value.grad is None for value in albef.slow.parameters())
    before = albef.slow.visual.conv1.weight.clone()
    with torch.no_grad():
        albef.model.visual.conv1.weight.add_(1.0)
    albef.after_update(0.0)
    assert torch.allclose(albef.slow.visual.conv1.weight, before + 0.1, atol=1e-6)
    kept = dict(albef.files())["open_clip_model.safetensors"]
    assert len(kept) < 4.5 * sum(value.numel() for value in albef.model.parameters())


def test_the_temperature_stays_within_bounds(small: Callable[..., Any]) -> None:
    albef = build(small("albef_itc"))
    assert albef.model.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    for value, expected in ((9.0, 0.001), (-1.0, 0.5)):
        with torch.no_grad():
            albef.model.logit_scale.fill_(value)
        albef.after_update(0.5)
        assert 1 / albef.model.logit_scale.exp().item() == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValidationError, match="lower bound above 0"):
        small("albef_itc", options={"temperature": [0, 0.5]})


def test_alpha_rises_over_its_share_of_the_run(small: Callable[..., Any]) -> None:
    albef = build(small("albef_itc", options={"alpha": 0.4, "alpha_warmup": 0.1}))
    found = [albef.alpha(progress) for progress in (0.0, 0.05, 0.1, 0.9)]
    assert found == pytest.approx([0.0, 0.2, 0.4, 0.4])
    assert build(small("albef_itc", options={"alpha_warmup": 0})).alpha(0.0) == 0.4


def test_training_lowers_the_loss(pairs: str, small: Callable[..., Any], tmp_path: Path) -> None:
    settings = small("albef_itc", steps=30)
    with deterministic(1):
        trainer = Trainer(Job(str(tmp_path), "d", settings, (Source(pairs),)))
        trainer.train(lambda step, note: None)
    losses = [json.loads(line)["loss"] for line in trainer.metrics]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3])


def test_a_batch_of_one_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 2"):
        TrainSettings.model_validate({"objective": "albef_itc", "batch": 1})
