import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from infra.errors import SluiceError
from pretrain import mixes
from pretrain.classifier import soft_cross_entropy
from pretrain.objectives.supervised import Supervised, build
from tests.pretrain.batches import batch
from tests.pretrain.learning import losses

CPU = torch.device("cpu")
CLASSES = ["red", "green", "blue"]
RNG = np.random.default_rng(0)


def labelled(count: int, first: int = 0) -> Any:
    texts = [json.dumps({"concept": CLASSES[number % 3]}) for number in range(count)]
    return batch(count, first, texts=texts)


@pytest.fixture
def make(small: Callable[..., Any]) -> Callable[..., Supervised]:
    def make(model: dict[str, Any] | None = None, **options: Any) -> Supervised:
        settings = small(
            "supervised", options={"classes": CLASSES, "drop_path": 0.0, **options}, **(model or {})
        )
        return build(settings).eval()

    return make


def test_the_loss_is_the_direct_formula() -> None:
    logits = RNG.normal(size=(4, 3))
    target = RNG.random((4, 3))
    target /= target.sum(1, keepdims=True)
    total = 0.0
    for row in range(4):
        chances = np.exp(logits[row]) / np.exp(logits[row]).sum()
        total -= sum(target[row, k] * np.log(chances[k]) for k in range(3)) / 4
    found = soft_cross_entropy(torch.from_numpy(logits), torch.from_numpy(target))
    assert found.item() == pytest.approx(total, rel=1e-9)


def wanted(model: Supervised, views: dict[str, Any]) -> np.ndarray:
    """The labels that the loss took: its gradient is softmax(logits) - target, over the batch."""
    with torch.no_grad():
        features = model.model(views["images"])
    logits = model.head(features).detach().requires_grad_()
    model.head = torch.nn.Identity()  # type: ignore[assignment]
    model.model.forward_head = lambda *args, **kwargs: logits
    model(views, 0.0)[0].backward()
    assert logits.grad is not None
    return (logits.softmax(-1) - logits.grad * len(logits)).detach().numpy()


@pytest.mark.parametrize(
    ("mix", "rule"), [("cutmix", "area"), ("mixup", "area"), ("transmix", "attention")]
)
def test_labels_are_mixed_by_what_is_seen(make: Any, mix: str, rule: str) -> None:
    model = make(mix=[mix], smoothing=0.1)
    views = model.views(labelled(6), CPU)
    share = views["own"].mean((1, 2)).numpy()
    if rule == "attention":
        with torch.no_grad():
            _, attention = mixes.attended(model.model, views["images"])
        cells = views["own"].view(6, 4, 8, 4, 8).mean((2, 4))
        share = ((cells * attention).sum((1, 2)) / attention.sum((1, 2))).numpy()
        assert not np.allclose(share, views["own"].mean((1, 2)).numpy(), atol=1e-4)
    else:
        model.attends = True  # so that both ways of the forward pass give what `wanted` needs
    hard = np.eye(3)[np.arange(6) % 3] * 0.9 + 0.1 / 3
    expected = share[:, None] * hard + (1 - share[:, None]) * hard[::-1]
    np.testing.assert_allclose(wanted(model, views), expected, atol=1e-5)


def test_mixpro_trusts_attention_as_far_as_it_predicts(make: Any) -> None:
    model = make(mix=["mixpro"], smoothing=0.0)
    views = model.views(labelled(6), CPU)
    with torch.no_grad():
        features, attention = mixes.attended(model.model, views["images"])
        chances = model.head(features).softmax(-1).numpy()
    area = views["own"].mean((1, 2)).numpy()
    cells = views["own"].view(6, 4, 8, 4, 8).mean((2, 4))
    seen = ((cells * attention).sum((1, 2)) / attention.sum((1, 2))).numpy()
    hard = np.eye(3)[np.arange(6) % 3]
    expected = []
    for row in range(6):
        label = area[row] * hard[row] + (1 - area[row]) * hard[5 - row]
        trust = chances[row] @ label / np.linalg.norm(chances[row]) / np.linalg.norm(label)
        share = trust * seen[row] + (1 - trust) * area[row]
        expected.append(share * hard[row] + (1 - share) * hard[5 - row])
    np.testing.assert_allclose(wanted(model, views), expected, atol=1e-5)


def test_mixpro_masks_keep_patches_whole(make: Any) -> None:
    own = make(mix=["mixpro"], mask_patches=2).views(labelled(4), CPU)["own"]
    cells = own.view(4, 2, 16, 2, 16)
    assert torch.equal(cells.amin((2, 4)), cells.amax((2, 4)))


def test_an_image_that_is_not_mixed_keeps_its_label(make: Any) -> None:
    model = make(mix=["transmix", "mixpro"], mix_chance=0.0, smoothing=0.0)
    views = model.views(labelled(6), CPU)
    assert (views["own"] == 1).all()
    np.testing.assert_allclose(wanted(model, views), np.eye(3)[np.arange(6) % 3], atol=1e-5)


def test_ways_and_shares_depend_on_the_place_alone(make: Any) -> None:
    model = make(mix=["cutmix", "mixup", "transmix", "mixpro"])
    whole = model.views(labelled(12), CPU)
    part = model.views(labelled(8, first=4), CPU)
    for name in ("own", "attend", "progressive"):
        assert torch.equal(part[name], whole[name][4:]), name
    assert 0 < whole["progressive"].sum() <= whole["attend"].sum() < 12


def test_soft_labels_are_taken_as_they_are(make: Any) -> None:
    soft = json.dumps({"concept": {"red": 3, "blue": 1}})
    views = make().views(batch(2, texts=[soft, soft]), CPU)
    assert views["target"].tolist() == [[0.75, 0.0, 0.25]] * 2


def test_thirty_steps_lower_the_loss_and_all_learns(make: Any) -> None:
    model = make(smoothing=0.0).train()
    found = losses(model, model.views(labelled(6), CPU), lr=0.2)
    assert found[0] == pytest.approx(np.log(3), abs=0.2) and found[-1] < 0.5 * found[0]
    assert all(value.grad is not None for value in model.trained())


def test_the_last_layer_and_its_classes_are_left_beside_the_encoder(make: Any) -> None:
    files = dict(make().files())
    assert json.loads(files["classes.json"]) == CLASSES
    assert {"config.json", "model.safetensors", "classifier.safetensors"} <= files.keys()


@pytest.mark.parametrize("network", ["test_resnet", "test_efficientnet", "mobilenetv3_small_050"])
def test_any_network_will_do_without_attention(make: Any, network: str) -> None:
    model = make({"model": network, "model_kwargs": {}}, mix=["cutmix", "mixup"])
    assert torch.isfinite(model(model.views(labelled(3), CPU), 0.0)[0])


@pytest.mark.parametrize("mix", ["transmix", "mixpro"])
def test_a_network_without_a_class_token_is_refused(make: Any, mix: str) -> None:
    with pytest.raises(SluiceError, match=f"{mix} weighs labels .* this ResNet has none"):
        make({"model": "test_resnet", "model_kwargs": {}}, mix=[mix])


def test_no_classes_and_a_batch_of_one_are_refused(make: Any) -> None:
    with pytest.raises(SluiceError, match=r"options\.classes names none"):
        make(classes=[])
    with pytest.raises(SluiceError, match="cutmix mixes two images"):
        make({"batch": 1}, mix=["cutmix"])
