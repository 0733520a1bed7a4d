import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infra.errors import SluiceError
from pretrain.data import Source
from pretrain.job import Job
from pretrain.loop import Trainer, deterministic
from pretrain.objectives.dinov2 import build as build_dinov2
from pretrain.objectives.dinov2 import encode
from pretrain.objectives.dinov3_gram import DinoV3Gram, build, gram_loss, gram_weight, to_grid
from pretrain.options.dinov3_gram import DinoV3GramOptions
from pretrain.run import run_draft
from tests.pretrain.batches import batch

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with deterministic(1):
        yield


@pytest.fixture
def make(small: Callable[..., Any]) -> Callable[..., Any]:
    """make(field=value of the options, ..., settings={...}) -> settings."""
    own = small("dinov3_gram").options.model_dump()

    def settings(settings: dict[str, Any] | None = None, **changes: Any) -> Any:
        return small("dinov3_gram", options={**own, **changes}, **(settings or {}))

    return settings


@pytest.fixture
def run(small: Callable[..., Any], tmp_path: Path) -> Path:
    """Folder of a dinov2 run."""
    folder = tmp_path / "dinov2"
    folder.mkdir()
    for path, data in build_dinov2(small("dinov2", seed=5)).files():
        (folder / path).write_bytes(data)
    return folder


def test_the_loss_is_the_direct_formula() -> None:
    rng = np.random.default_rng(0)
    student, target = rng.normal(size=(2, 5, 4)), rng.normal(size=(2, 5, 7))
    errors = []
    for image in range(2):
        for one in range(5):
            for two in range(5):
                cosines = [
                    x[image, one]
                    @ x[image, two]
                    / np.linalg.norm(x[image, one])
                    / np.linalg.norm(x[image, two])
                    for x in (student, target)
                ]
                errors.append((cosines[0] - cosines[1]) ** 2)
    found = gram_loss(torch.from_numpy(student), torch.from_numpy(target))
    assert found.item() == pytest.approx(np.mean(errors), rel=1e-5)
    assert len(errors) == 50


def test_equal_features_cost_nothing() -> None:
    patches = torch.randn(3, 6, 8, requires_grad=True)
    turned = torch.linalg.qr(torch.randn(8, 8))[0]
    assert gram_loss(patches, patches).item() == 0
    same = gram_loss(patches, 5 * patches @ turned)  # similarities alone, not features
    assert same.item() < 1e-10
    gram_loss(patches, patches.detach()).backward()
    assert patches.grad is not None and patches.grad.abs().max() < 1e-7


def test_features_are_resampled_to_the_students_grid() -> None:
    fine = torch.arange(4.0)[:, None].expand(4, 4).reshape(1, 16, 1)  # a ramp down the rows
    found = to_grid(fine, (4, 4), (2, 2))
    assert found.shape == (1, 4, 1)
    assert found[0, 0, 0] == found[0, 1, 0]
    kernel = np.asarray([-0.09375, 0.59375, 0.59375, -0.09375])  # Keys' cubic at a half, a = -3/4
    first = kernel @ np.asarray([0.0, 0.0, 1.0, 2.0])
    assert found[0, 0, 0].item() == pytest.approx(first, abs=1e-6)
    assert found[0, 2, 0].item() == pytest.approx(3 - first, abs=1e-6)
    assert torch.equal(to_grid(fine, (4, 4), (4, 4)), fine)


def test_a_student_that_equals_its_anchor_has_no_gram_loss(make: Callable[..., Any]) -> None:
    """At the anchor's resolution, nothing hidden: the very same features."""
    options = {"gram_teacher": "average", "gram_refresh_every": None, "gram_start": 0}
    gram = build(make(**options, gram_size=32, drop_path=0.0))
    found = gram.views(batch(4), CPU)
    found["global"] = found["fine"]
    found["hidden"][:] = False
    assert gram(found, 0.5)[1]["gram"] == 0
    with torch.no_grad():
        gram.student.pos_embed += torch.randn_like(gram.student.pos_embed)
    assert gram(found, 0.5)[1]["gram"] > 0


def test_the_anchor_sees_the_same_crops_finer_and_undistorted(make: Callable[..., Any]) -> None:
    gram = build(make())
    early, late = gram.views(batch(8), CPU), gram.views(batch(8, first=5 * 8), CPU)
    assert early["fine"] is None
    assert gram.views(batch(8, first=4 * 8), CPU)["fine"] is None
    assert late["fine"].shape == (16, 3, 64, 64)
    assert (gram.grid, gram.fine_grid) == ((4, 4), (8, 8))
    plain = build(make(jitter=0.0, settings={"canvas": 48}))
    found = plain.views(batch(8, first=5 * 8), CPU)
    shrunk = torch.nn.functional.interpolate(found["fine"], (32, 32), mode="area")
    alike = [
        torch.corrcoef(torch.stack([shrunk[crop].flatten(), other.flatten()]))[0, 1].item()
        for crop in range(8, 16)
        for other in found["global"][8:]
    ]
    table = np.asarray(alike).reshape(8, 8)
    # One in ten second crops is blurred, a fifth grey, a fifth solarised: the others agree.
    assert (table.diagonal() > 0.9).sum() >= 4
    assert table[~np.eye(8, dtype=bool)].max() < 0.5


@pytest.mark.parametrize("tokens", ["all", "masked", "unmasked"])
def test_what_is_compared(tokens: str, make: Callable[..., Any]) -> None:
    gram = build(make(gram_scope="batch", gram_tokens=tokens, drop_path=0.0))
    found = gram.views(batch(4, first=5 * 8), CPU)
    with torch.no_grad():
        student = encode(gram.student, found["global"], found["hidden"], gram.mask_token)[:, 2:]
        fine = encode(gram.anchor, found["fine"])[:, 2:]
    target = to_grid(fine, (8, 8), (4, 4))
    chosen = {
        "all": torch.ones_like(found["hidden"]),
        "masked": found["hidden"],
        "unmasked": ~found["hidden"],
    }[tokens]
    wanted = gram_loss(student[chosen][None], target[chosen][None])
    loss, figures = gram(found, 15 / 20)
    assert torch.allclose(figures["gram"], wanted, rtol=1e-4)
    rest = gram.distil(found, 15 / 20).loss
    assert torch.allclose(loss, rest + 2.0 * wanted, rtol=1e-4)


def test_only_the_student_gets_a_gradient(make: Callable[..., Any]) -> None:
    gram = build(make(dino_weight=0.0, ibot_weight=0.0, koleo_weight=0.0))
    gram(gram.views(batch(4, first=5 * 8), CPU), 0.9)[0].backward()
    assert gram.student.patch_embed.proj.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in [*gram.anchor.parameters(), *gram.teacher.parameters()])
    trained = {id(p) for p in gram.trained()}
    assert not any(id(p) in trained for p in gram.anchor.parameters())


def test_the_weight_rises_along_half_a_cosine() -> None:
    options = DinoV3GramOptions(gram_start=100, gram_ramp=20)
    found = [gram_weight(options, step) for step in (0, 99, 100, 105, 110, 120, 299)]
    assert found == pytest.approx([0, 0, 0, 2 * (1 - 0.5**0.5) / 2, 1.0, 2.0, 2.0])
    sudden = DinoV3GramOptions(gram_start=10, gram_ramp=0, gram_weight=1.5)
    assert [gram_weight(sudden, step) for step in (9, 10)] == [0.0, 1.5]


class StoppedError(Exception):
    """Stands for a killed process."""


def changes(trainer: Trainer, until: int) -> list[int]:
    """Numbers of updates after which the anchor was another; trains up to `until`."""
    gram, found = trainer.objective, []
    assert isinstance(gram, DinoV3Gram)
    before = gram.anchor.pos_embed.clone()

    def look(step: int, note: str) -> None:
        nonlocal before
        if not torch.equal(gram.anchor.pos_embed, before):
            assert torch.equal(gram.anchor.pos_embed, gram.teacher.pos_embed)
            before = gram.anchor.pos_embed.clone()
            found.append(step)
        if step == until:
            raise StoppedError

    with pytest.raises(StoppedError):
        trainer.train(look)
    return found


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"gram_start": 5, "gram_refresh_every": 4, "gram_refreshes": 2}, [5, 9, 13]),
        ({"gram_start": 3, "gram_refresh_every": 6, "gram_refreshes": 9}, [3, 9, 15]),
        ({"gram_start": 6, "gram_refresh_every": None}, [6]),
        ({"gram_start": 6, "gram_refresh_every": 5, "gram_refreshes": 0}, [6]),
    ],
)
def test_the_anchor_is_replaced_at_the_stated_steps(
    options: dict[str, Any], expected: list[int], make: Callable[..., Any]
) -> None:
    gram, found = build(make(**options)), []
    for step in range(20):
        with torch.no_grad():
            gram.student.cls_token += 1
        before = gram.anchor.cls_token.clone()
        gram.after_update(step / 20)
        if not torch.equal(gram.anchor.cls_token, before):
            found.append(step + 1)
            assert torch.equal(gram.anchor.cls_token, gram.teacher.cls_token)
    assert found == expected


def test_and_at_the_same_steps_after_a_resume(
    make: Callable[..., Any], pairs: str, tmp_path: Path
) -> None:
    settings = make(gram_start=5, gram_refresh_every=5, gram_refreshes=2)
    jobs = [Job(str(tmp_path / n), "d", settings, (Source(pairs),)) for n in ("whole", "broken")]
    whole = Trainer(jobs[0])
    assert changes(whole, 20) == [5, 10, 15]  # at 20 it was replaced as often as it may be
    assert changes(Trainer(jobs[1]), 12) == [5, 10]
    resumed = Trainer(jobs[1])  # from the checkpoint at 7
    assert resumed.step == 7
    assert changes(resumed, 16) == [10, 15]
    resumed = Trainer(jobs[1])
    assert resumed.step == 14
    assert changes(resumed, 20) == [15]
    states = whole.objective.state_dict(), resumed.objective.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_an_anchor_from_a_run(make: Callable[..., Any], run: Path) -> None:
    gram = build(make(gram_teacher="weights", gram_weights=str(run), gram_start=0))
    assert not torch.equal(gram.anchor.pos_embed, gram.teacher.pos_embed)
    continued = build(
        make(settings={"pretrained": str(run)}, gram_start=0)
    )  # the start itself is the anchor
    assert torch.equal(continued.anchor.pos_embed, gram.anchor.pos_embed)
    assert torch.equal(continued.student.pos_embed, gram.anchor.pos_embed)
    gram.after_update(0.0)  # start + 1 is no moment to replace it
    assert torch.equal(continued.anchor.pos_embed, gram.anchor.pos_embed)


def test_an_anchor_counts_by_its_bytes(make: Callable[..., Any], run: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(run, tmp_path / "copy")
    found = []
    for place in (run, copy):
        settings = make(gram_teacher="weights", gram_weights=str(place))
        found.append(run_draft("s", "m", settings, {"a": "1"}).spec.digest)
    (copy / "model.safetensors").write_bytes(b"other")
    settings = make(gram_teacher="weights", gram_weights=str(copy))
    other = run_draft("s", "m", settings, {"a": "1"}).spec
    assert found[0] == found[1] != other.digest
    assert str(copy) not in json.dumps(other.settings)


def test_what_cannot_be(make: Callable[..., Any], run: Path) -> None:
    for options, message in (
        ({"gram_teacher": "weights"}, "give the folder of an earlier run"),
        ({"gram_weights": "x"}, "gram_teacher is start"),
        ({"gram_teacher": "average", "gram_weights": "x"}, "gram_teacher is average"),
        ({"gram_teacher": "average", "gram_refresh_every": 5}, "changes at every step by itself"),
        ({"gram_tokens": "masked"}, "set gram_scope batch"),
        ({"gram_tokens": "unmasked"}, "set gram_scope batch"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**options)
    for options, message in (
        ({"gram_start": 0}, "they are random"),
        ({"gram_start": 20}, "the run ends after 20 steps"),
        ({"gram_size": 60}, "60 pixels is not divisible by the patch size 8"),
        ({"gram_teacher": "weights", "gram_weights": "/no/such"}, "gram_weights: .*no such file"),
    ):
        with pytest.raises(SluiceError, match=message):
            build(make(**options))
    other = make(
        settings={"model_kwargs": {**make().model_kwargs, "depth": 2}},
        gram_teacher="weights",
        gram_weights=str(run),
    )
    with pytest.raises(SluiceError, match=r"gram_weights: .* do not fit"):
        build(other)
