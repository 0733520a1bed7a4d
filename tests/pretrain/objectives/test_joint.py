import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load

from infra import artifacts
from infra.errors import SluiceError
from pretrain import checkpoint
from pretrain.data import Batch, Source
from pretrain.distributed import ALONE
from pretrain.job import Job
from pretrain.loop import Trainer, deterministic
from pretrain.objectives.joint import Joint, build
from pretrain.optimizers import make_optimizer
from pretrain.run import run_draft
from tests.pretrain.batches import batch
from tests.pretrain.conftest import png, write_version
from tests.pretrain.learning import losses

CPU = torch.device("cpu")
NAMES = [frozenset({"web", "d0"}), frozenset({"photos", "d1"}), frozenset({"fractals", "d2"})]
TEXT = {
    "embed_dim": 16,
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
CLIP = {"objective": "clip", "model": TEXT, "sources": ["web"]}
DINO_SIZES = {"prototypes": 32, "hidden": 16, "bottleneck": 8, "local_crops": 2}
DINO = {"objective": "dino", "sources": ["photos"], "weight": 0.5, "options": DINO_SIZES}
FRACTALS = {
    "objective": "multi_instance",
    "sources": ["d2"],
    "weight": 2.0,
    "options": {"classes": ["fern", "snow"]},
}
TINY = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
VIT = {"model": "vit_tiny_patch16_224", "model_kwargs": TINY}
MAE = {
    "objective": "mae",
    "options": {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with deterministic(1):
        yield


@pytest.fixture
def make(small: Callable[..., Any]) -> Callable[..., Joint]:
    def make(parts: dict[str, Any], **changes: Any) -> Joint:
        return build(small("joint", options={"parts": parts}, **changes)).train()

    return make


def three(make: Callable[..., Joint]) -> Joint:
    return make({"pairs": CLIP, "images": DINO, "fractals": FRACTALS})


def mixed(sources: list[int], first: int = 0) -> Batch:
    """Samples of the three sources; captions of the web alone, labels of fractals alone."""
    found = batch(
        len(sources),
        first,
        captions=[f"caption {row}" if source == 0 else "" for row, source in enumerate(sources)],
        texts=[json.dumps({"labels": ["fern"]} if source == 2 else {}) for source in sources],
    )
    return replace(found, sources=np.asarray(sources), names=NAMES)


ALL = [0, 1, 2, 0, 1, 2, 0, 1]


def test_a_part_sees_the_samples_of_its_sources_alone(
    make: Callable[..., Joint], monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, seen = three(make), dict[str, Batch]()
    for name, _, part in objective.parts():

        def views(own: Batch, device: torch.device, name: str = name, was: Any = part.views) -> Any:
            seen[name] = own
            return was(own, device)

        monkeypatch.setattr(part, "views", views)
    whole = mixed(ALL, first=40)
    found = objective.views(whole, CPU)
    assert found["rows"].tolist() == [2, 3, 3]  # fractals, images, pairs
    assert seen["pairs"].captions == ["caption 0", "caption 3", "caption 6"]
    assert seen["fractals"].meta == [{"labels": ["fern"]}] * 2
    for name, source in (("pairs", 0), ("images", 1), ("fractals", 2)):
        rows = [row for row, each in enumerate(ALL) if each == source]
        assert seen[name].places.tolist() == [40 + row for row in rows]
        assert set(seen[name].sources) == {source}
        np.testing.assert_array_equal(seen[name].images, whole.images[rows])
    assert found["pairs/images"].shape[0] == 3 and found["fractals/present"].shape == (2, 2)


def test_another_sources_pixels_change_no_loss_but_its_own(make: Callable[..., Joint]) -> None:
    objective = three(make)
    figures = []
    for changed in (False, True):
        samples = mixed(ALL)
        if changed:
            samples.images[[1, 4, 7]] = 255 - samples.images[[1, 4, 7]]
        again = copy.deepcopy(objective)
        figures.append(again(again.views(samples, CPU), 0.5)[1])
    assert torch.equal(figures[0]["pairs/loss"], figures[1]["pairs/loss"])
    assert torch.equal(figures[0]["fractals/loss"], figures[1]["fractals/loss"])
    assert not torch.equal(figures[0]["images/loss"], figures[1]["images/loss"])


def grads(objective: Joint, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    objective.zero_grad()
    loss.backward()
    found = objective.model.named_parameters()
    return {name: each.grad.double() for name, each in found if each.grad is not None}


def test_gradients_of_the_encoder_are_the_weighted_sum_of_the_parts(
    make: Callable[..., Joint],
) -> None:
    objective = three(make)
    views = objective.views(mixed(ALL), CPU)
    loss, figures = copy.deepcopy(objective)(views, 0.5)
    told = {name: figures[f"{name}/loss"].item() for name in objective.names}
    weights = {"pairs": 1.0, "images": 0.5, "fractals": 2.0}
    assert loss.item() == pytest.approx(sum(weights[name] * told[name] for name in told), rel=1e-6)
    first = copy.deepcopy(objective)
    together = grads(first, first(views, 0.5)[0])
    apart: list[dict[str, torch.Tensor]] = []
    for name, weight in weights.items():
        again = copy.deepcopy(objective)
        own = {key.removeprefix(f"{name}/"): views[key] for key in views if key.startswith(name)}
        alone = grads(again, again.part(name)(own, 0.5)[0])
        apart.append({key: weight * value for key, value in alone.items()})
    assert together.keys() == apart[0].keys() and len(together) > 20
    for key, value in together.items():
        assert torch.allclose(value, sum(each[key] for each in apart), atol=1e-6), key


def test_thirty_steps_lower_the_loss_of_each_part(make: Callable[..., Joint]) -> None:
    objective = make(
        {
            "pairs": CLIP,
            "images": {**DINO, "objective": "rotnet", "options": {}},
            "fractals": FRACTALS,
        }
    )
    views = objective.views(mixed(ALL), CPU)
    before = objective(views, 0.0)[1]
    losses(objective, views, lr=0.02)
    after = objective(views, 0.99)[1]
    for name in objective.names:
        assert after[f"{name}/loss"] < 0.7 * before[f"{name}/loss"], name


def test_a_part_with_too_few_samples_rests_and_is_counted(make: Callable[..., Joint]) -> None:
    objective = three(make)
    views = objective.views(mixed([0, 1, 1, 1]), CPU)  # CLIP compares samples, and has one
    assert not any(key.startswith(("pairs/", "fractals/")) for key in views)
    loss, figures = objective(views, 0.5)
    loss.backward()
    assert figures["pairs/skipped"] == 1 and figures["images/skipped"] == 0
    assert figures["pairs/rows"] == 1 and "pairs/loss" not in figures
    assert all(value.grad is None for value in objective.part("fractals").head.parameters())
    _, figures = objective(objective.views(mixed(ALL, first=8), CPU), 0.5)
    assert figures["pairs/skipped"] == 1 and figures["pairs/loss"] > 0
    loss, figures = objective(objective.views(mixed([0, 1]), CPU), 0.5)
    loss.backward()
    assert loss == 0 and figures["images/skipped"] == 1


def test_a_part_with_few_samples_gets_all_of_them_in_each_process(
    make: Callable[..., Joint],
) -> None:
    objective = three(make)
    own = np.array([True, False, True, True, False, True, False])
    samples = replace(mixed([0, 0, 1, 1, 1, 1, 2]), own=own, dealt=[[1, 2, 0], [1, 2, 1]])
    assert objective.options.common(samples.dealt, NAMES) == [True, False, True]
    views = objective.views(samples, CPU)
    assert views["spread"] == {"pairs": ALONE, "images": [2, 2], "fractals": ALONE}
    assert len(views["pairs/images"]) == 2 and len(views["fractals/images"]) == 1
    assert len(views["images/global"]) == 2 * 3  # two crops of those that are its own
    assert views["rows"].tolist() == [1, 4, 2]  # fractals, images, pairs: of both


def test_weights_ramp_over_a_share_of_the_run(make: Callable[..., Joint]) -> None:
    part = {**FRACTALS, "weight": 3.0, "first_weight": 1.0, "ramp": 0.5}
    objective = make({"fractals": {**part, "sources": []}})
    views = objective.views(mixed([2, 2, 2]), CPU)
    for progress, weight in ((0.0, 1.0), (0.25, 2.0), (0.5, 3.0), (0.9, 3.0)):
        loss, figures = objective(views, progress)
        assert (loss / figures["fractals/loss"]).item() == pytest.approx(weight)


def test_all_parts_train_one_encoder_and_teachers_are_copies(make: Callable[..., Joint]) -> None:
    parts = {
        "images": {**DINO, "sources": []},
        "patches": MAE,
        "features": {"objective": "semaim"},
        "labels": {**FRACTALS, "sources": []},
    }
    tiny = {**TINY, "drop_path_rate": 0.2}
    objective = make(parts, **{**VIT, "model_kwargs": tiny})
    dino = objective.part("images")
    assert dino.student is objective.model is objective.part("patches").model
    assert objective.part("labels").model is objective.part("features").model is objective.model
    assert dino.teacher is not objective.model
    for slow, fast in zip(dino.teacher.parameters(), objective.model.parameters(), strict=True):
        assert torch.equal(slow, fast) and not slow.requires_grad and fast.requires_grad
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(dino.teacher(images), dino.teacher(images))  # it drops nothing
    assert not torch.equal(objective.model(images), objective.model(images))
    samples = batch(4, texts=[json.dumps({"labels": ["snow"]})] * 4)
    loss, _ = objective(objective.views(samples, CPU), 0.5)
    loss.backward()
    assert all(value.grad is not None for value in objective.model.parameters())
    objective.before_update(0.0)
    assert all(value.grad is None for value in dino.student_head.last.parameters())


def test_what_parts_share_is_kept_once_and_comes_back(
    make: Callable[..., Joint], tmp_path: Path
) -> None:
    first, second = three(make), three(make)
    with torch.no_grad():
        for value in first.parameters():
            value.add_(1)
    state = first.state_dict()
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    optimizers = [make_optimizer(each, each.settings) for each in (first, second)]
    saved = checkpoint.Saved(3, {}, [])
    checkpoint.save_checkpoint(str(tmp_path), "digest", saved, first, optimizers[0])
    assert checkpoint.load_checkpoint(str(tmp_path), "digest", second, optimizers[1]) is not None
    assert second.part("images").student is second.model
    for name, value in second.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_its_files_load_in_open_clip_and_in_timm(
    make: Callable[..., Joint], tmp_path: Path
) -> None:
    parts = {"pairs": {**CLIP, "sources": []}, "patches": MAE, "also": {**CLIP, "sources": []}}
    objective = make(parts, model="test_vit", model_kwargs={}, image_size=160).eval()
    assert objective.part("pairs").model.visual.trunk is objective.model
    loss, figures = objective(objective.views(batch(3, side=64), CPU), 0.5)
    assert torch.isfinite(loss) and {"pairs/loss", "patches/loss"} <= figures.keys()
    files = dict(objective.files())
    assert {"config.json", "model.safetensors", "open_clip_config.json"} <= files.keys()
    assert {"pairs/open_clip_model.safetensors"} <= files.keys()  # "also" comes first
    assert not [name for name in files if name.startswith("patches/")]
    config = json.loads(files["config.json"])
    assert config["objective"] == "joint" and config["pooling"] == "class_token"
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'pairs'}")
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        expected = objective.part("pairs").model.encode_image(images)
        assert torch.allclose(model.eval().encode_image(images), expected, atol=1e-5)
    kept, live = load(files["model.safetensors"]), objective.model.state_dict()
    assert kept.keys() == live.keys() == model.visual.trunk.state_dict().keys()
    assert all(torch.equal(kept[name], live[name]) for name in kept)


def test_a_sample_is_of_use_if_it_is_to_the_parts_of_its_source(
    small: Callable[..., Any], tmp_path: Path
) -> None:
    image = png(np.full((24, 24, 3), 90, np.uint8))
    photos = write_version(tmp_path / "photos", [(image, {})] * 6)
    labelled = [(image, {"labels": ["fern"]})] * 5 + [(image, {"labels": ["cow"]})]
    fractals = write_version(tmp_path / "fractals", labelled)
    parts = {"images": DINO, "fractals": {**FRACTALS, "sources": ["mine"]}}
    settings = small("joint", options={"parts": parts}, steps=3)
    sources = (Source(photos), Source(fractals, name="mine"))
    trainer = Trainer(Job(str(tmp_path / "run"), "d", settings, sources))
    trainer.train(lambda step, note: None)
    mix = {each["source"]: each["undecodable"] for each in trainer.summary()["mix"]}
    digests = [artifacts.load(url).digest for url in (photos, fractals)]  # type: ignore[union-attr]
    assert mix[digests[0]] == 0 and mix[digests[1]] >= 1
    line = json.loads(trainer.metrics[-1])
    assert line["images/rows"] == line["fractals/rows"] == 4
    settings = small("joint", options={"parts": {"images": DINO}}, steps=3)
    trainer = Trainer(Job(str(tmp_path / "other"), "d", settings, sources))
    with pytest.raises(SluiceError, match="no part learns from the source"):
        trainer.train(lambda step, note: None)


def test_a_draft_checks_sources_and_knows_their_digests(
    small: Callable[..., Any], runs: dict[str, str], tmp_path: Path
) -> None:
    def draft(parts: dict[str, Any], *names: str) -> Any:
        settings = small("joint", **VIT, options={"parts": parts})
        return run_draft(
            "s", "n", settings, {name: f"d{number}" for number, name in enumerate(names)}
        )

    both = {"pairs": {**DINO, "sources": ["a"]}, "images": {**MAE, "sources": ["b"]}}
    renamed = {"pairs": {**DINO, "sources": ["x"]}, "images": {**MAE, "sources": ["d1"]}}
    assert draft(both, "a", "b").url == draft(renamed, "x", "y").url
    assert draft(both, "a", "b").url == draft(dict(reversed(both.items())), "a", "b").url
    assert draft(both, "a", "b").url != draft(both, "b", "a").url
    with pytest.raises(SluiceError, match=r"part images learns from b, and the sources .* are a"):
        draft(both, "a")
    with pytest.raises(SluiceError, match="no part learns from the source c"):
        draft(both, "a", "b", "c")
    teacher = {"objective": "feature_distill", "options": {"teacher": runs["dino"]}}
    stated = draft({"images": teacher}, "a").spec.settings["options"]["parts"]["images"]
    assert isinstance(stated["options"]["teacher"], list)  # bytes of weights, not a path


def refused(make: Callable[..., Joint], parts: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(SluiceError) as caught:
        make(parts, **changes)
    return str(caught.value)


def test_an_encoder_that_cannot_carry_a_part_is_refused_by_the_parts_name(
    make: Callable[..., Joint],
) -> None:
    assert "part patches: mae cannot train a ResNet" in refused(make, {"patches": MAE, "b": DINO})
    assert "part pairs: open_clip builds test_vit in another shape" in refused(
        make, {"pairs": CLIP}, model="test_vit", model_kwargs={}
    )
    told = refused(make, {"pairs": CLIP}, **VIT)
    assert "part pairs: clip leaves an open_clip model, which cannot say model_kwargs" in told
    assert "part pairs: clip compares samples, and batch is 1" in refused(
        make, {"pairs": CLIP}, batch=1
    )
    assert "part labels: multi_instance is to tell classes apart" in refused(
        make, {"labels": {"objective": "multi_instance"}}
    )
    assert "part pairs: open_clip knows no model 'ViT-none'" in refused(
        make, {"pairs": {**CLIP, "model": "ViT-none"}}
    )
    assert "options.parts names none" in refused(make, {})


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"objective": "joint"}, "no joint run"),
        ({"objective": "byol"}, "use one of"),
        ({**DINO, "model": "resnet18"}, "leave model out"),
        ({**DINO, "options": {"drop_path": 0.1}}, "drop_path_rate"),
        ({**DINO, "weight": 0.0}, "never above 0"),
        ({**DINO, "options": {"flip": 2}}, r"options\.flip"),
        ({**DINO, "lr": 0.1}, "Extra inputs"),
    ],
)
def test_a_part_that_makes_no_sense_is_refused_at_once(
    small: Callable[..., Any], part: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        small("joint", options={"parts": {"images": part}})
    with pytest.raises(ValidationError, match="no name of a part"):
        small("joint", options={"parts": {"a/b": DINO}})


def test_captions_all_empty_are_refused_by_the_parts_name(make: Callable[..., Joint]) -> None:
    objective = make({"pairs": {**CLIP, "sources": ["photos"]}, "all": {"objective": "rotnet"}})
    with pytest.raises(SluiceError, match="part pairs: none of its first 3 samples has a caption"):
        objective.views(mixed([0, 1, 1, 1]), CPU)
