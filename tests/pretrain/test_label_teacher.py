"""Networks that tell classes: of a run, of timm, CLIP by prompts; several, and place by place."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from infra.errors import SluiceError
from pretrain import label_teacher
from pretrain.backbones import IMAGENET_MEAN, IMAGENET_STD
from pretrain.objectives import build
from pretrain.settings import TrainSettings
from tests.pretrain.conftest import COLOURS, write_clip_run
from tests.pretrain.taught import settings_of

CPU = torch.device("cpu")
NAMES = tuple(COLOURS)


def run_of(settings: TrainSettings, folder: Path) -> str:
    """The files that an untrained run would leave."""
    folder.mkdir()
    for path, data in build(settings).files():
        (folder / path).write_bytes(data)
    return str(folder)


def images_of(count: int, side: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_several_teachers_give_their_mean(small: Callable[..., Any], tmp_path: Path) -> None:
    teacher = run_of(small("supervised", options={"classes": NAMES}), tmp_path / "run")
    (first,) = label_teacher.load(settings_of(teacher), CPU)
    weights = timm.create_model("test_resnet", num_classes=3).state_dict()
    save_file(weights, tmp_path / "other.safetensors")
    other = {
        "network": "timm:test_resnet", "weights": str(tmp_path / "other.safetensors"),
        "image_size": 32,
    }  # fmt: skip
    both = settings_of(teacher, teachers=[{"network": teacher}, other], classes=NAMES)
    teachers, images = label_teacher.load(both, CPU), images_of(5)
    assert [each.size for each in teachers] == [32, 32]
    with torch.no_grad():
        given = label_teacher.scored(teachers, lambda each: each.probabilities(images))
        second = teachers[1].probabilities(images)
        assert torch.allclose(given, (first.probabilities(images) + second) / 2)
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "thousand.safetensors")
    other["weights"] = str(tmp_path / "thousand.safetensors")
    with pytest.raises(SluiceError, match=r"\(3\) and of timm:test_resnet \(1000\) differ"):
        label_teacher.load(settings_of(teacher, teachers=[{"network": teacher}, other]), CPU)
    with pytest.raises(SluiceError, match="other formats can run code"):
        other["weights"] = str(tmp_path)
        label_teacher.load(settings_of(teacher, teachers=[other]), CPU)


def test_a_run_teaches_by_its_own_classifier(small: Callable[..., Any], tmp_path: Path) -> None:
    settings = small("supervised", options={"classes": NAMES})
    url = run_of(settings, tmp_path / "run")
    (network,) = label_teacher.load(settings_of(url), CPU)
    model: Any = build(settings).eval()
    with torch.no_grad():
        expected = model.head(model.model(images_of(4))).softmax(-1)
        torch.testing.assert_close(network.probabilities(images_of(4)), expected)
    assert (network.classes, network.size) == (NAMES, 32)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "classes.json").write_text('["red"]')
    with pytest.raises(SluiceError, match="is not the last layer of 1 classes"):
        label_teacher.load(settings_of(url), CPU)
    config["objective"] = "multi_instance"
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(SluiceError, match="do not exclude each other"):
        label_teacher.load(settings_of(url), CPU)


def test_clip_teaches_by_prompts(tmp_path: Path) -> None:
    url = write_clip_run(tmp_path / "clip", 3)
    settings = settings_of(url, classes=NAMES, templates=("a {}", "some {}"))
    (network,) = label_teacher.load(settings, CPU)
    with torch.no_grad():
        given = network.probabilities(images_of(4))
        vectors = network.vectors(images_of(4))
    assert given.shape == (4, 3) and torch.allclose(given.sum(1), torch.ones(4))
    assert torch.allclose(vectors.norm(dim=1), torch.ones(4)) and vectors.shape == (4, 16)
    with pytest.raises(SluiceError, match="`classes` names none"):
        label_teacher.load(settings_of(url), CPU)


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_convnext", "resnet10t"])
def test_the_mean_over_a_map_of_scores_is_what_the_whole_gives(model: str) -> None:
    """Of a network that pools by a mean before its last layer."""
    made = timm.create_model(model, num_classes=3).eval()
    size = 160 if model == "test_vit" else 96
    network = label_teacher.LabelTeacher(model, made, size, IMAGENET_MEAN, IMAGENET_STD, NAMES)
    with torch.no_grad():
        scores = network.scores(images_of(2, size))
        whole = made(images_of(2, size))
    assert scores.ndim == 4 and scores.shape[0] == 2 and scores.shape[3] == 3
    if model in ("test_resnet", "resnet10t"):
        torch.testing.assert_close(scores.mean((1, 2)), whole, rtol=1e-4, atol=1e-5)
