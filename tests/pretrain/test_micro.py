"""Steps in micro-batches against the same step at once."""

import json
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from infra.errors import SluiceError
from pretrain import micro, objectives
from pretrain.data import Source
from pretrain.job import Job
from pretrain.loop import run
from pretrain.objectives.base import Objective
from pretrain.settings import TrainSettings
from tests.pretrain.batches import batch

SAMPLES = 8
Small = Callable[..., TrainSettings]


def with_dropout(name: str, small: Small, **changes: Any) -> Objective:
    """An objective whose blocks drop a third of what they add."""
    objective = objectives.build(small(name, **changes)).train()
    blocks = [
        module
        for module in objective.modules()
        if type(module).__name__ in ("ResidualAttentionBlock", "CustomResidualAttentionBlock")
    ]
    assert len(blocks) == 2
    for block in blocks:
        block.mlp.append(nn.Dropout(0.3))
    return objective


def seen(objective: Any, count: int = SAMPLES) -> Mapping[str, Any]:
    captions = ["a", "b", "c", "a", "d", "b", "e", "f"][:count]
    texts = [json.dumps({"class": "red", "labels": ["red"]})] * count
    with torch.no_grad():
        return objective.views(batch(count, captions=captions, texts=texts), torch.device("cpu"))


def gradients(objective: nn.Module) -> dict[str, Tensor]:
    found = {
        name: parameter.grad.clone()
        for name, parameter in objective.named_parameters()
        if parameter.grad is not None
    }
    objective.zero_grad(set_to_none=True)
    return found


CASES = [
    ("clip", {}),
    ("clip", {"same_caption": "positive", "prefixes": [4, 8]}),
    ("siglip", {}),
    ("siglip", {"chunk": 3}),
    ("clip_distill", {}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_cached_gradients_are_those_of_the_whole_batch(
    name: str, options: dict[str, Any], small: Small, runs: dict[str, str]
) -> None:
    """With dropout: against all samples at once, which see the same random numbers."""
    if name == "clip_distill":
        options = {**options, "teacher": runs["clip"]}
    objective = with_dropout(name, small, options=options, micro_batch=3)
    views = seen(objective)
    torch.manual_seed(1)
    parts = [objective.features(part) for _, part in micro.parts(views, SAMPLES, 3)]
    features = tuple(torch.cat(each) for each in zip(*parts, strict=True))
    loss, figures = objective.compare(features, views, 0.5)
    loss.backward()
    expected, after = gradients(objective), torch.rand(1)

    torch.manual_seed(1)
    found, told = micro.cached(objective, views, 0.5, SAMPLES, 3, nullcontext)
    assert found.item() == pytest.approx(loss.item(), rel=1e-6)
    assert torch.equal(torch.rand(1), after)  # as many were drawn as in one pass
    assert told.keys() == figures.keys() and not any(each.requires_grad for each in told.values())
    grads = gradients(objective)
    assert grads.keys() == expected.keys()
    for key, grad in grads.items():
        assert (grad - expected[key]).abs().max() < 1e-5, key
    scale = expected["model.logit_scale"].abs().item()
    assert scale > 1e-3  # twice it, as when it is counted in each micro-batch, would be seen


def test_without_the_random_state_they_would_not_be(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = with_dropout("clip", small)
    views, found = seen(objective), []
    for restored in (True, False):
        if not restored:
            monkeypatch.setattr(micro, "restore", lambda device, state: None)
        torch.manual_seed(1)
        micro.cached(objective, views, 0.5, SAMPLES, 2, nullcontext)
        found.append(gradients(objective)["model.visual.conv1.weight"])
    assert (found[0] - found[1]).abs().max() > 1e-3


@contextmanager
def counting(held: dict[str, int], weights: set[int]) -> Iterator[None]:
    """Bytes kept for the way back, now and at most; weights are not counted."""

    class Kept:
        def __init__(self, value: Tensor) -> None:
            self.value = value

    def free(count: int) -> None:
        held["now"] -= count

    def pack(value: Tensor) -> Kept:
        kept = Kept(value)
        storage = value.untyped_storage()
        count = 0 if storage.data_ptr() in weights else value.numel() * value.element_size()
        held["now"] += count
        held["most"] = max(held["most"], held["now"])
        weakref.finalize(kept, free, count)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.value):
        yield


def test_no_more_than_a_micro_batch_is_held(small: Small) -> None:
    objective = with_dropout("clip", small)
    weights = {each.untyped_storage().data_ptr() for each in objective.parameters()}
    views, most = seen(objective), {}
    for size in (8, 4, 2, 1):
        held = {"now": 0, "most": 0}
        with counting(held, weights):
            micro.cached(objective, views, 0.5, SAMPLES, size, nullcontext)
        assert held["now"] == 0
        most[size] = held["most"]
    assert most[4] < 0.55 * most[8] and most[2] < 0.3 * most[8] and most[1] < 0.2 * most[8]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mae", {}),
        ("simmim", {}),
        ("semaim", {}),
        (
            "rotnet",
            {"model": "vit_tiny_patch16_224", "model_kwargs": {"patch_size": 8, "depth": 1}},
        ),
        ("supervised", {"options": {"classes": ["red", "b"], "label": "class"}}),
    ],
)
def test_a_mean_over_samples_adds_up(name: str, changes: dict[str, Any], small: Small) -> None:
    objective = objectives.build(small(name, micro_batch=3, **changes)).train()
    views = seen(objective)
    loss, figures = micro.whole(objective, views, 0.5, nullcontext)
    expected = gradients(objective)
    found, told = micro.accumulated(objective, views, 0.5, SAMPLES, 3, nullcontext)
    assert found.item() == pytest.approx(loss.item(), rel=1e-5)
    assert {key: value.item() for key, value in told.items()} == pytest.approx(
        {key: value.item() for key, value in figures.items()}, rel=1e-4
    )
    for key, grad in gradients(objective).items():
        assert (grad - expected[key]).abs().max() < 1e-5, key


def test_views_are_cut_by_sample() -> None:
    crops = torch.arange(12.0).reshape(12, 1)  # two crops of each of six
    views = {"crops": crops, "rows": list("abcdef"), "none": None, "number": 3, "s": torch.ones(())}
    cut = list(micro.parts(views, 6, 4))
    assert [share for share, _ in cut] == [4 / 6, 2 / 6]
    assert cut[1][1]["crops"].flatten().tolist() == [4, 5, 10, 11]
    assert cut[1][1]["rows"] == ["e", "f"]
    assert cut[0][1]["none"] is None and cut[0][1]["number"] == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "barlow"}, "barlow needs the whole batch: its loss is of the correlations"),
        ({"objective": "dino"}, "dino needs the whole batch: its centre"),
        (
            {"objective": "supervised", "options": {"classes": ["a", "b"], "mix": ["cutmix"]}},
            "options.mix mixes the labels",
        ),
        ({"objective": "clip", "compile": True}, "cannot be compiled"),
        ({"objective": "mae", "micro_batch": 0}, "greater than 0"),
    ],
)
def test_what_needs_the_whole_batch_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainSettings.model_validate({"micro_batch": 4, **changes})


def test_batch_norms_are_refused(pairs: str, small: Small, tmp_path: Path) -> None:
    job = Job(str(tmp_path), "d", small("rotnet", micro_batch=4), (Source(pairs),))
    with pytest.raises(SluiceError, match="batch norms"):
        run(job, lambda step, note: None)


@pytest.mark.parametrize("name", ["clip", "mae"])
def test_a_run_learns_the_same(name: str, pairs: str, small: Small, tmp_path: Path) -> None:
    lines: list[list[dict[str, Any]]] = []
    for size in (None, 3):
        settings = small(name, steps=4, micro_batch=size)
        job = Job(str(tmp_path / str(size)), "d", settings, (Source(pairs),))
        run(job, lambda step, note: None)
        text = (Path(job.url) / "metrics.jsonl").read_text()
        lines.append([json.loads(line) for line in text.splitlines()])
    for one, two in zip(*lines, strict=True):
        assert two == pytest.approx(one, rel=1e-4)
