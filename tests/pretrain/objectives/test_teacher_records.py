from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.objectives.teacher_records import TeacherRecords, build, record_loss
from tests.pretrain.batches import batch
from tests.pretrain.learning import losses
from tests.pretrain.taught import CLASSES, record

CPU = torch.device("cpu")


def recorded(columns: dict[str, Any], count: int = 4, **fields: Any) -> Any:
    return batch(count, columns=[{"teacher": columns}] * count, **fields)


@pytest.fixture
def make(small: Callable[..., Any]) -> Callable[..., TeacherRecords]:
    return lambda **options: build(
        small("teacher_records", options={"classes": CLASSES, **options})
    )


def test_the_loss_is_the_direct_formula() -> None:
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(3, 5)), rng.random((3, 5))
    target[0, 2] = 0.0  # counts nothing
    target /= target.sum(1, keepdims=True)
    total = 0.0
    for row in range(3):
        chances = np.exp(logits[row]) / np.exp(logits[row]).sum()
        for k in range(5):
            if target[row, k]:
                total += target[row, k] * np.log(target[row, k] / chances[k]) / 3
    found = record_loss(torch.from_numpy(logits), torch.from_numpy(target))
    assert found.item() == pytest.approx(total, rel=1e-9)
    same = record_loss(torch.from_numpy(target[1:]).log(), torch.from_numpy(target[1:]))
    assert same.item() == pytest.approx(0, abs=1e-12)


def test_targets_are_the_stored_probabilities(make: Any) -> None:
    target = make().views(recorded(record(1)), CPU)["target"]
    assert target[0, 1] == pytest.approx(0.7, abs=1e-3)
    assert target[0, 7] == pytest.approx(0.1, abs=1e-3)
    assert target[0, 0] == pytest.approx(0.2 / 10, abs=1e-3)
    dropped = make(rest="drop").views(recorded(record(1)), CPU)["target"]
    assert dropped[0, 1] == pytest.approx(0.875, abs=1e-3) and dropped[0, 0] == 0
    assert dropped.sum(1).tolist() == pytest.approx([1.0] * 4)


def test_labels_have_their_share(make: Any) -> None:
    model, samples = make(label_share=0.5), recorded(record(1), texts=['{"concept": "c"}'] * 4)
    target = model.views(samples, CPU)["target"]
    assert target[0, 2] == pytest.approx(0.5 + 0.5 * 0.02, abs=1e-3)
    assert target[0, 1] == pytest.approx(0.35, abs=1e-3)
    unusable = model.options.unusable
    assert unusable({"teacher": record(1), "concept": "c"}) is None
    assert "concept 'x' is none" in str(unusable({"teacher": record(1), "concept": "x"}))
    assert make().options.unusable({"teacher": record(1), "concept": "x"}) is None


def test_the_teachers_crop_is_taken_again(make: Any) -> None:
    model = make()
    box = {**record(1, 1), "box": np.asarray([[16384, 0, 49151, 32768]], np.uint16)}
    samples = recorded(box)
    images = model.views(samples, CPU)["images"]
    inside, outside = samples.images.copy(), samples.images.copy()
    inside[:, 20, 10] ^= 255
    outside[:, 44:, 30:] ^= 255
    for changed, same in ((outside, True), (inside, False)):
        samples.images[:] = changed
        assert torch.equal(model.views(samples, CPU)["images"], images) is same
        samples.images[:] = recorded(box).images
    mirrored = model.views(recorded({**box, "flip": np.ones(1, np.uint8)}), CPU)["images"]
    torch.testing.assert_close(mirrored, images.flip(3))


def test_each_place_draws_one_of_its_views(make: Any) -> None:
    both = record(1)
    both["classes"][1, 0] = 3
    found = make().views(recorded(both, count=40), CPU)["target"].argmax(1)
    assert set(found.tolist()) == {1, 3}
    assert 8 < (found == 3).sum() < 32


def test_thirty_steps_lower_the_loss_and_all_learns(make: Any) -> None:
    model = make()
    found = losses(model, model.views(recorded(record(1)), CPU))
    assert 0 <= found[-1] < 0.5 * found[0]
    assert all(value.grad is not None for value in model.trained())
