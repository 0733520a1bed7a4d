import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch.nn.functional import normalize

from indexes.encoder import ClipEncoder
from infra.errors import SluiceError
from pretrain.data import Source
from pretrain.job import Job
from pretrain.loop import Trainer, deterministic
from pretrain.objectives.clip import clip_loss, similarities
from pretrain.objectives.clip_distill import build, distill_loss
from pretrain.run import run_draft
from pretrain.texts import unit_text
from tests.pretrain.batches import batch
from tests.pretrain.conftest import TINY_CLIP

CPU = torch.device("cpu")


def unit(count: int, width: int, seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, width, generator=rng), dim=1)


def test_the_loss_is_the_direct_formula() -> None:
    """The widths of student and teacher differ: similarities alone are compared."""
    student = similarities(unit(5, 4, 0), unit(5, 4, 1), torch.tensor(6.0))
    teacher = similarities(unit(5, 9, 2), unit(5, 9, 3), torch.tensor(11.0))
    first = 6.0 * (unit(5, 4, 0) @ unit(5, 4, 1).T).double().numpy()
    second = 11.0 * (unit(5, 9, 2) @ unit(5, 9, 3).T).double().numpy()
    total = 0.0
    for logits, wanted in ((first, second), (first.T, second.T)):
        for row in range(5):
            target = np.exp(wanted[row]) / np.exp(wanted[row]).sum()
            total -= (target * (logits[row] - np.log(np.exp(logits[row]).sum()))).sum() / 5
    assert distill_loss(student, teacher).item() == pytest.approx(total / 2, rel=1e-5)


def test_contrast_and_distillation_are_added(small: Callable[..., Any], runs: Any) -> None:
    model = build(small("clip_distill", options={"teacher": runs["clip"], "distill": 0.5}))
    found = model.views(batch(4), CPU)
    loss, figures = model(found, 0.0)
    vectors = []
    for network in (model.model, model.teacher.network):
        image = network.encode_image(found["images"], normalize=True)
        vectors.append((image, unit_text(network, found["tokens"])))
    contrast = clip_loss(*vectors[0], model.model.logit_scale.exp())[0].item()
    assert figures["contrast"].item() == pytest.approx(contrast, rel=1e-5)
    scales = model.model.logit_scale.exp(), model.teacher.network.logit_scale.exp()
    student, teacher = (similarities(*v, s) for v, s in zip(vectors, scales, strict=True))
    # The teacher was written with a normalisation of its own, so its images are others.
    image = model.teacher.network.encode_image(found["teacher_images"], normalize=True)
    assert not torch.allclose(image, vectors[1][0], atol=1e-3)
    teacher = similarities(image, vectors[1][1], scales[1])
    distill = distill_loss(student, teacher).item()
    assert figures["distill"].item() == pytest.approx(distill, rel=1e-5)
    assert loss.item() == pytest.approx(contrast + 0.5 * distill, rel=1e-5)


def test_the_teacher_sees_the_same_views_at_its_own_size(
    small: Callable[..., Any], runs: Any
) -> None:
    options = {"teacher": runs["clip"], "flip": 0.5, "jitter": 0.4, "drop_tokens": 0.5}
    model = build(small("clip_distill", image_size=16, options=options))
    captions = ["a long caption of many words"] * 4
    found = model.views(batch(4, captions=captions), CPU)
    assert found["images"].shape == (4, 3, 16, 16)
    assert found["teacher_images"].shape == (4, 3, 32, 32)
    own = found["images"] * torch.tensor(model.parts.std).view(3, 1, 1)
    own = own + torch.tensor(model.parts.mean).view(3, 1, 1)
    seen = torch.nn.functional.avg_pool2d(found["teacher_images"] * 0.25 + 0.5, 2)
    pixels = zip(own, seen, strict=True)
    alike = [np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in pixels]
    assert min(alike) > 0.9
    words, taught = ((found[name] != 0).sum() for name in ("tokens", "teacher_tokens"))
    assert words < taught
    assert torch.equal(found["teacher_tokens"], model.parts.tokenizer(captions)[:, :8])


def test_the_teacher_stays_and_is_in_no_checkpoint(
    small: Callable[..., Any], runs: Any, pairs: str, tmp_path: Path
) -> None:
    before = ClipEncoder.load(runs["clip"]).model.state_dict()
    with deterministic(1):
        job = Job(str(tmp_path), "d", small("clip_distill", steps=30), (Source(pairs),))
        trainer = Trainer(job)
        trainer.train(lambda step, note: None)
    teacher = trainer.objective.teacher.network
    assert not teacher.training and trainer.objective.training
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(value.grad is None for value in teacher.parameters())
    assert all("teacher" not in name for name in trainer.objective.state_dict())
    assert not {id(value) for value in teacher.parameters()} & {
        id(value) for value in trainer.objective.parameters()
    }
    lines = [json.loads(line) for line in trainer.metrics]
    for name in ("loss", "contrast", "distill"):
        values = [line[name] for line in lines]
        assert np.mean(values[-5:]) < 0.9 * np.mean(values[:3]), name


def test_the_teacher_moves_with_the_student(small: Callable[..., Any]) -> None:
    model = build(small("clip_distill")).to(torch.float64)
    assert model.teacher.network.visual.conv1.weight.dtype == torch.float64
    model = model.to("meta")
    assert model.teacher.network.visual.conv1.weight.is_meta


def test_prefixes_learn_from_the_whole_teacher(small: Callable[..., Any], runs: Any) -> None:
    model = build(small("clip_distill", options={"teacher": runs["clip"], "prefixes": [4]}))
    loss, figures = model(model.views(batch(4), CPU), 0.0)
    assert torch.isfinite(loss) and {"loss_4", "loss_16", "distill"} <= figures.keys()


def test_a_teacher_is_a_folder_a_file_in_it_or_weights_of_a_named_model(
    small: Callable[..., Any], runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(runs["clip"])
    file = folder / "open_clip_model.safetensors"
    first, second = (
        build(small("clip_distill", options={"teacher": str(path)})) for path in (folder, file)
    )
    states = [model.teacher.network.state_dict() for model in (first, second)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    shutil.copy(file, tmp_path / "weights.safetensors")
    bare = {"teacher": str(tmp_path / "weights.safetensors")}
    with pytest.raises(SluiceError, match="nothing says of which model") as caught:
        build(small("clip_distill", options=bare))
    assert "teacher_model" in caught.value.way_out
    with pytest.raises(SluiceError, match="knows no model 'no-such'"):
        build(small("clip_distill", options={**bare, "teacher_model": "no-such"}))
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-teacher", TINY_CLIP)
    third = build(small("clip_distill", options={**bare, "teacher_model": "tiny-teacher"}))
    loaded = third.teacher.network.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in states[0].items())


def test_no_teacher_and_one_that_is_not_there(small: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(SluiceError, match="no teacher to learn from"):
        build(small("clip_distill", options={}))
    with pytest.raises(SluiceError, match="no model folder at"):
        build(small("clip_distill", options={"teacher": str(tmp_path / "none")}))


def test_a_run_is_of_its_teachers_content_not_of_its_place(
    small: Callable[..., Any], runs: Any, tmp_path: Path
) -> None:
    def drafted(teacher: Path | str) -> Any:
        settings = small("clip_distill", options={"teacher": str(teacher)})
        return run_draft("s", "m", settings, {"a": "1"}).spec

    folder = Path(runs["clip"])
    shutil.copytree(folder, tmp_path / "copy")
    first = drafted(folder)
    assert str(folder) not in json.dumps(first.settings)
    assert drafted(tmp_path / "copy").digest == first.digest
    assert drafted(tmp_path / "copy" / "open_clip_model.safetensors").digest == first.digest
    config = tmp_path / "copy" / "open_clip_config.json"
    config.write_text(config.read_text().replace("0.25", "0.26"))
    assert drafted(tmp_path / "copy").digest != first.digest
    shutil.copy(folder / "open_clip_config.json", config)
    weights = tmp_path / "copy" / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert drafted(tmp_path / "copy").digest != first.digest
    assert drafted("laion2b").settings["options"]["teacher"] == "laion2b"
    settings = small("clip_distill", options={"teacher": str(folder)})
    assert settings.identity()["options"]["teacher"] == str(folder)
