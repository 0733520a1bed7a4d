import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infra.errors import SluiceError
from pretrain.encoders import load
from pretrain.objectives.feature_distill import FeatureDistill, build, norm_direction_loss
from pretrain.run import run_draft
from tests.pretrain.batches import batch
from tests.pretrain.learning import losses

CPU = torch.device("cpu")
CLASSES = ["red", "green", "blue"]


@pytest.fixture
def make(small: Callable[..., Any], runs: dict[str, str]) -> Callable[..., FeatureDistill]:
    def make(**options: Any) -> FeatureDistill:
        return build(small("feature_distill", options={"teacher": runs["dino"], **options}))

    return make


def labelled(count: int = 6) -> Any:
    texts = [json.dumps({"concept": CLASSES[number % 3]}) for number in range(count)]
    return batch(count, texts=texts)


def test_the_loss_is_the_direct_formula() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 5, 4))
    student[0] *= 9  # longer than the teacher's
    ways = rng.normal(size=(5, 4))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    terms = []
    for s, t, e in zip(student, teacher, ways, strict=True):
        terms.append(1 - s @ e / max(np.sqrt(s @ s), np.sqrt(t @ t)))
    found = norm_direction_loss(*map(torch.from_numpy, (student, teacher, ways)))
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-9)


def test_a_short_feature_is_pulled_out_and_a_long_one_is_only_turned() -> None:
    way, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    for length, pulled in ((1.0, True), (5.0, False)):
        student = torch.tensor([[length, 0.0]], requires_grad=True)
        norm_direction_loss(student, teacher, way).backward()
        assert student.grad is not None
        assert bool(student.grad[0, 0] < -1e-3) is pulled
    zero = torch.zeros(1, 2, requires_grad=True)
    norm_direction_loss(zero, torch.zeros(1, 2), way).backward()
    assert zero.grad is not None and torch.isfinite(zero.grad).all()


def test_the_teacher_is_frozen_and_never_in_training(make: Any) -> None:
    model = make().train()
    network = model.teacher.held.network
    assert not any(module.training for module in network.modules())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    model(model.views(labelled(), CPU), 0.0)[0].backward()
    assert all(value.grad is None for value in network.parameters())
    assert all(value.grad is not None for value in model.trained())
    trained = {id(value) for value in model.trained()}
    assert not trained & {id(value) for value in network.parameters()}
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(name.startswith("teacher") for name in model.state_dict())


@pytest.mark.parametrize("kind", ["dino", "mae", "clip"])
def test_it_teaches_what_the_run_encodes(make: Any, runs: dict[str, str], kind: str) -> None:
    teacher = make(teacher=runs[kind]).teacher
    encoder = load(runs[kind])
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    inner: Any = encoder if kind != "clip" else encoder.clip  # type: ignore[attr-defined]
    found = teacher(inner.preprocess(list(images))).numpy()
    expected = encoder.encode_images(list(images))
    found = found / np.linalg.norm(found, axis=1, keepdims=True)
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_both_see_the_same_crop_each_in_its_own_colours(make: Any) -> None:
    model = make(jitter=0.4)
    views = model.views(labelled(), CPU)
    student = views["student"] * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    student = student + torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    torch.testing.assert_close(views["teacher"] * 0.25 + 0.5, student, atol=1e-5, rtol=0)


def test_directions_are_those_of_the_class_means(make: Any) -> None:
    model = make(direction="class", classes=CLASSES)
    seen: list[np.ndarray] = []
    for _ in range(2):
        views = model.views(labelled(), CPU)
        teacher = model.teacher(views["teacher"])
        seen.append(teacher.numpy())
        found = model._means(teacher, views["target"]).numpy()
    whole, classes = np.concatenate(seen), np.tile(np.arange(6) % 3, 2)
    for row in range(6):
        mean = whole[classes == row % 3].mean(0)
        cosine = found[row] @ mean / np.linalg.norm(found[row]) / np.linalg.norm(mean)
        assert cosine == pytest.approx(1, abs=1e-5)
    assert "sums" in model.state_dict()


def test_thirty_steps_lower_the_loss(make: Any) -> None:
    model = make()
    found = losses(model, model.views(labelled(), CPU))
    assert found[-1] < 0.6 * found[0]


def test_the_teachers_bytes_are_the_runs_identity(
    small: Any, runs: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(runs["dino"], folder)

    def digest(teacher: str) -> str:
        settings = small("feature_distill", options={"teacher": teacher})
        return run_draft("store", "x", settings, {"a": "0" * 16}).spec.digest

    assert digest(str(folder)) == digest(runs["dino"])
    shutil.copy(Path(runs["mae"]) / "model.safetensors", folder / "model.safetensors")
    assert digest(str(folder)) != digest(runs["dino"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": None}, "options.teacher names none"),
        ({"teacher": "/nowhere"}, "no encoder at /nowhere"),
        ({"teacher": "pixels"}, "has no network to learn from"),
        ({"teacher": "timm:no_such_network"}, "timm cannot give the teacher"),
        ({"direction": "class"}, "options.classes names none"),
    ],
)
def test_what_cannot_teach_is_refused(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SluiceError, match=message):
        make(**options)


def test_labels_are_asked_for_only_where_directions_are_of_classes(make: Any) -> None:
    assert make().options.unusable({}) is None
    options = make(direction="class", classes=CLASSES).options
    assert options.unusable({"concept": "cow"}) is not None
