import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from infra.errors import SluiceError
from pretrain.loop import deterministic
from pretrain.objectives.dinov2 import DinoV2, build, encode
from pretrain.optimizers import parameter_groups
from tests.pretrain.batches import batch

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with deterministic(1):
        yield


@pytest.fixture
def dino(small: Callable[..., Any]) -> DinoV2:
    return build(small("dinov2"))


@pytest.fixture
def options(small: Callable[..., Any]) -> dict[str, Any]:
    return small("dinov2").options.model_dump()


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def array(x: torch.Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def test_half_the_crops_are_masked_and_every_patch_is_weighted(dino: DinoV2) -> None:
    found = dino.views(batch(8), CPU)
    hidden = found["hidden"]
    counts = hidden.sum(1)
    assert hidden.shape == (16, 16)
    wanted = [int(16 * (0.1 + 0.4 * (i + 1) / 8) + 1e-6) for i in range(8)]
    assert sorted(counts[counts > 0].tolist()) == wanted
    assert hidden.flatten()[found["places"]].all()
    assert len(found["places"]) == sum(wanted)
    rows = found["places"] // 16
    assert torch.allclose(found["weights"], 1 / counts[rows].float())
    again = dino.views(batch(8), CPU)
    assert torch.equal(again["hidden"], hidden)
    later = dino.views(batch(8, first=8), CPU)
    assert not torch.equal(later["hidden"], hidden)
    assert len(later["places"]) == sum(wanted)


def test_a_hidden_patch_is_not_seen_and_the_teacher_sees_all(dino: DinoV2) -> None:
    found = dino.views(batch(4), CPU)
    images, hidden = found["global"], found["hidden"]
    changed = images.clone()
    for image, place in hidden.nonzero().tolist():
        y, x = divmod(place, 4)
        changed[image, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] += 1.0
    assert not torch.equal(changed, images)
    tokens = encode(dino.student.eval(), images, hidden, dino.mask_token)
    assert torch.equal(encode(dino.student, changed, hidden, dino.mask_token), tokens)
    assert tokens.shape == (8, 2 + 16, 24)
    targets, seen = (dino._targets(x, found["places"], 0.5) for x in (images, changed))
    assert not torch.equal(targets[1], seen[1])


def test_without_masks_it_is_the_models_own_forward(dino: DinoV2) -> None:
    for size in (32, 16):  # positions are resampled for small crops
        images = torch.randn(2, 3, size, size)
        model = dino.teacher
        assert torch.equal(encode(model, images), model.forward_features(images))


@pytest.mark.parametrize("centring", ["sinkhorn", "mean"])
@pytest.mark.parametrize("separate", [False, True])
def test_the_whole_loss_is_the_direct_formula(
    centring: str, separate: bool, small: Callable[..., Any], options: dict[str, Any]
) -> None:
    changes = {"centring": centring, "separate_head": separate, "drop_path": 0.0}
    weights = {"dino_weight": 0.7, "ibot_weight": 1.3, "koleo_weight": 0.2}
    dino = build(small("dinov2", options={**options, **changes, **weights}))
    found = dino.views(batch(4), CPU)
    wide, hidden = found["global"], found["hidden"].numpy()
    heads = dino.student_heads
    assert list(heads) == (["class", "patch"] if separate else ["class"])
    patch = "patch" if separate else "class"
    with torch.no_grad():
        student = encode(dino.student, wide, found["hidden"], dino.mask_token)
        teacher = encode(dino.teacher, wide)
        local = encode(dino.student, found["local"])
        logits = array(heads["class"](torch.cat([student[:, 0], local[:, 0]])))
        given = array(heads[patch](student[:, 2:]))
        class_outputs = array(dino.teacher_heads["class"](teacher[:, 0]))
        patch_outputs = array(dino.teacher_heads[patch](teacher[:, 2:]))[hidden]
    loss, figures = dino(found, 0.3)

    def targets(outputs: np.ndarray) -> np.ndarray:
        if centring == "mean":
            return softmax(outputs / 0.07)  # the centre starts at 0
        table = np.exp(outputs / 0.07)
        for _ in range(3):
            table /= table.sum(0) * table.shape[1]
            table /= table.sum(1, keepdims=True)
        return table

    wanted, views = targets(class_outputs).reshape(2, 4, 32), np.log(softmax(logits / 0.1))
    views = views.reshape(4, 4, 32)
    pairs = [(t, v) for t in range(2) for v in range(4) if t != v]
    class_loss = np.mean([-(wanted[t] * views[v]).sum(-1).mean() for t, v in pairs])
    patch_targets, at, patch_total = targets(patch_outputs), 0, 0.0
    for image in range(8):
        for place in np.flatnonzero(hidden[image]):
            log = np.log(softmax(given[image, place] / 0.1))
            patch_total += -(patch_targets[at] * log).sum() / hidden[image].sum() / 8
            at += 1
    koleo = 0.0
    for crop in array(student[:, 0]).reshape(2, 4, 24):
        unit = crop / np.linalg.norm(crop, axis=1, keepdims=True)
        apart = np.linalg.norm(unit[:, None] - unit[None], axis=-1) + 9 * np.eye(4)
        koleo += -np.log(apart.min(1) + 1e-8).mean()
    assert figures["dino"].item() == pytest.approx(class_loss, rel=1e-3)
    assert figures["ibot"].item() == pytest.approx(patch_total, rel=1e-3)
    assert figures["koleo"].item() == pytest.approx(koleo / 2, rel=1e-3)
    total = 0.7 * class_loss + 1.3 * patch_total + 0.2 * koleo
    assert loss.item() == pytest.approx(total, rel=1e-3)


def test_centres_follow_the_teacher(small: Callable[..., Any], options: dict[str, Any]) -> None:
    dino = build(small("dinov2", options={**options, "centring": "mean"}))
    found = dino.views(batch(4), CPU)
    with torch.no_grad():
        tokens = encode(dino.teacher, found["global"])
        classes = dino.teacher_heads["class"](tokens[:, 0])
        patches = dino.teacher_heads["class"](tokens[:, 2:][found["hidden"]])
    dino(found, 0.0)
    assert torch.allclose(dino.class_center, 0.1 * classes.mean(0), atol=1e-6)
    assert torch.allclose(dino.patch_center, 0.1 * patches.mean(0), atol=1e-6)


def test_only_the_student_learns(dino: DinoV2) -> None:
    loss, _ = dino(dino.views(batch(4), CPU), 0.5)
    loss.backward()
    assert all(p.grad is None for p in [*dino.teacher.parameters()])
    assert all(p.grad is None for p in [*dino.teacher_heads.parameters()])
    assert all(p.grad is not None for p in dino.trained())
    assert dino.mask_token.grad.abs().sum() > 0
    dino.before_update(0.5)
    norm = math.sqrt(sum(p.grad.norm().item() ** 2 for p in dino.trained()))
    assert norm <= 3.0 + 1e-4


def test_the_last_layer_rests_at_first(small: Callable[..., Any], options: dict[str, Any]) -> None:
    dino = build(small("dinov2", options={**options, "separate_head": True}))
    for progress, rests in ((0.0, True), (0.04, True), (0.05, False)):
        dino.zero_grad()
        dino(dino.views(batch(4), CPU), progress)[0].backward()
        dino.before_update(progress)
        for head in dino.student_heads.values():
            assert (head.last.weight.grad is None) == rests
            assert (head.gain.grad is None) == rests


def test_the_teacher_follows_and_never_drops(
    small: Callable[..., Any], options: dict[str, Any]
) -> None:
    kwargs = {**small("dinov2").model_kwargs, "depth": 2, "proj_drop_rate": 0.5}
    dino = build(small("dinov2", model_kwargs=kwargs, options={**options, "drop_path": 0.5}))
    images = dino.train().views(batch(4), CPU)["global"]
    assert torch.equal(encode(dino.teacher, images), encode(dino.teacher, images))
    assert not torch.equal(encode(dino.student, images), encode(dino.student, images))
    before = dino.teacher.pos_embed.clone()
    with torch.no_grad():
        dino.student.pos_embed += 1
        dino.student_heads["class"].gain += 1
    dino.after_update(0.0)
    assert torch.allclose(dino.teacher.pos_embed - before, torch.tensor(0.008), atol=1e-6)
    assert torch.allclose(dino.teacher_heads["class"].gain, torch.tensor(1.008), atol=1e-6)
    before = dino.teacher.pos_embed.clone()
    dino.after_update(1.0)
    assert torch.equal(dino.teacher.pos_embed, before)


def test_rates_of_layers_and_of_the_patch_embedding(small: Callable[..., Any]) -> None:
    dino = build(small("dinov2", model_kwargs={**small("dinov2").model_kwargs, "depth": 2}))
    rates = {
        id(parameter): group["scale"]
        for group in parameter_groups(dino, dino.settings)
        for parameter in group["params"]
    }
    found = {name: rates.get(id(p)) for name, p in dino.named_parameters()}
    assert found["student_heads.class.last.weight"] == found["mask_token"] == 1.0
    assert found["student.norm.weight"] == pytest.approx(0.9)
    assert found["student.blocks.1.attn.qkv.weight"] == pytest.approx(0.9)
    assert found["student.blocks.0.attn.qkv.weight"] == pytest.approx(0.9**2)
    assert found["student.cls_token"] == pytest.approx(0.9**3)
    assert found["student.patch_embed.proj.weight"] == pytest.approx(0.2 * 0.9**3)
    assert not any(found[name] for name in found if name.startswith("teacher"))


def test_health(dino: DinoV2) -> None:
    same = batch(4)
    same.images[:] = same.images[0]
    torch.nn.init.zeros_(dino.student.patch_embed.proj.weight)  # all images alike
    torch.nn.init.zeros_(dino.teacher.patch_embed.proj.weight)
    dino.student.patch_embed.proj.bias.data.zero_()
    loss, figures = dino(dino.views(same, CPU), 0.5)
    assert figures["near_duplicates"] > 0.15
    assert figures["entropy"] > 0.99  # Sinkhorn of outputs that are all alike
    assert torch.isfinite(loss)
    assert figures["koleo"] <= -math.log(1e-8)


def test_a_duplicate_pair_does_no_harm(dino: DinoV2) -> None:
    found = dino.views(batch(4), CPU)
    for crop in (0, 4):
        found["global"][crop + 2] = found["global"][crop + 1]
        found["hidden"][crop + 2] = found["hidden"][crop + 1]
    dino.eval()
    loss, figures = dino(found, 0.5)
    loss.backward()
    dino.before_update(0.5)
    assert torch.isfinite(loss)
    assert figures["near_duplicates"] >= 1 / 6 - 1e-6
    assert all(torch.isfinite(p.grad).all() for p in dino.trained())


def test_it_learns(small: Callable[..., Any], options: dict[str, Any]) -> None:
    dino = build(small("dinov2", options={**options, "freeze_last_layer": 0.0}))
    optimizer = torch.optim.AdamW(dino.trained(), 2e-3)
    found = dino.views(batch(8), CPU)
    torch.manual_seed(0)
    losses = []
    for step in range(40):
        loss, _ = dino(found, step / 40)
        optimizer.zero_grad()
        loss.backward()
        dino.before_update(step / 40)
        optimizer.step()
        dino.after_update(step / 40)
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.parametrize(
    ("model", "kwargs", "message"),
    [
        ("test_resnet", {}, "cannot train a ResNet.*class token"),
        ("test_vit", {"class_token": False, "global_pool": "avg"}, "cannot train"),
        ("test_vit", {"global_pool": "avg", "patch_size": 8}, "norms its mean alone"),
        ("test_vit", {"patch_drop_rate": 0.5, "patch_size": 8}, "drops patches"),
        ("vit_tiny_patch16_224", {"patch_size": 12}, "not divisible"),
    ],
)
def test_networks_that_cannot(
    model: str, kwargs: dict[str, Any], message: str, small: Callable[..., Any]
) -> None:
    with pytest.raises((SluiceError, ValueError), match=message):
        build(small("dinov2", model=model, model_kwargs=kwargs))


def test_options_and_batches_that_cannot(small: Callable[..., Any]) -> None:
    for ratio in ((0.5, 0.1), (0.0, 0.0), (0.2, 1.2), (-0.1, 0.5)):
        with pytest.raises(ValueError, match="rising shares"):
            small("dinov2", options={"mask_ratio": ratio})
    with pytest.raises(ValueError, match="needs at least 2"):
        small("dinov2", batch=1)
    dino = build(small("dinov2", batch=2, options={"local_crops": 0, "mask_ratio": (1.0, 1.0)}))
    found = dino.views(batch(2), CPU)
    assert found["hidden"].sum(1).tolist().count(16) == 2
    assert torch.isfinite(dino(found, 0.0)[0])


def test_it_goes_on_from_weights_without_heads(
    small: Callable[..., Any], tmp_path: Any, dino: DinoV2
) -> None:
    for path, data in dino.files():
        (tmp_path / path).write_bytes(data)
    later = build(small("dinov2", seed=7, pretrained=str(tmp_path)))
    assert torch.equal(later.student.pos_embed, dino.teacher.pos_embed)
    assert torch.equal(later.teacher.pos_embed, dino.teacher.pos_embed)
    mine, other = (x.student_heads["class"].last.weight for x in (later, dino))
    assert not torch.equal(mine, other)


def test_it_goes_on_from_released_weights_of_another_size(
    small: Callable[..., Any], tmp_path: Any
) -> None:
    """timm's own files: positions for larger images, and the head of a classifier."""
    import timm
    from safetensors.torch import save_file

    settings = small("dinov2")
    kwargs = {**settings.model_kwargs, "img_size": 64, "num_classes": 10}
    released = timm.create_model("vit_tiny_patch16_224", **kwargs)
    torch.nn.init.normal_(released.pos_embed)
    save_file(released.state_dict(), tmp_path / "released.safetensors")
    dino = build(small("dinov2", pretrained=str(tmp_path / "released.safetensors")))
    assert torch.equal(dino.student.cls_token, released.cls_token)
    assert dino.student.pos_embed.shape == (1, 2 + 16, 24)
    assert torch.equal(dino.student.pos_embed[:, :2], released.pos_embed[:, :2])
    own = dino.student.pos_embed[0, 2:].mean(0)
    assert torch.allclose(own, released.pos_embed[0, 2:].mean(0), atol=0.1)
    del kwargs["reg_tokens"]
    other = timm.create_model("vit_tiny_patch16_224", **kwargs)
    save_file(other.state_dict(), tmp_path / "released.safetensors")
    with pytest.raises(SluiceError, match="do not fit"):
        build(small("dinov2", pretrained=str(tmp_path / "released.safetensors")))
