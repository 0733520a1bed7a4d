import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from infra.errors import SluiceError
from pretrain.objectives.multi_instance import MultiInstance, build, multi_label_loss, trusted
from tests.pretrain.batches import batch
from tests.pretrain.learning import losses

CPU = torch.device("cpu")
LABELS = [["red"], ["red", "blue"], [], ["green", "red", "blue"]]


@pytest.fixture
def model(small: Callable[..., Any]) -> MultiInstance:
    return build(small("multi_instance"))


def labelled() -> Any:
    return batch(4, texts=[json.dumps({"labels": names}) for names in LABELS])


@pytest.mark.parametrize("weight", [None, 7.0])
def test_the_loss_is_the_direct_formula(weight: float | None) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5))
    present = np.asarray([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]], float)
    terms = []
    for row in range(3):
        count = present[row].sum()
        factor = weight or (5 / count if count else 1.0)
        for k in range(5):
            chance = 1 / (1 + np.exp(-logits[row, k]))
            if present[row, k]:
                terms.append(-factor * np.log(chance))
            else:
                terms.append(-np.log(1 - chance))
    found = multi_label_loss(torch.from_numpy(logits), torch.from_numpy(present), weight)
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-9)


def test_no_logit_makes_it_infinite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]])
    assert torch.isfinite(multi_label_loss(logits, torch.tensor([[0.0, 1.0, 0.0]]), None))


def test_labels_become_rows_of_zeros_and_ones(model: MultiInstance) -> None:
    views = model.views(labelled(), CPU)
    assert views["present"].tolist() == [[1, 0, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1]]


def test_the_whole_image_is_seen_unless_a_crop_is_asked_for(small: Callable[..., Any]) -> None:
    """A crop could cut off what a label names."""
    options = {"classes": ["red", "green", "blue"], "flip": 0.0}
    samples = labelled()
    samples.images[:, -1] = 255
    whole = build(small("multi_instance", options=options)).views(samples, CPU)["images"]
    cut = build(small("multi_instance", options={**options, "crop_scale": [0.2, 0.4]}))
    assert (whole[:, :, -1].mean((1, 2)) > whole[:, :, :-1].mean((1, 2, 3))).all()
    assert not torch.equal(cut.views(samples, CPU)["images"], whole)


def test_probabilities_of_present_and_absent_classes() -> None:
    told = trusted(torch.tensor([[9.0, -9.0], [9.0, 9.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    assert told["present"] > 0.999 and told["absent"] < 0.001
    assert trusted(torch.zeros(1, 2), torch.zeros(1, 2))["present"] == 0


def test_thirty_steps_lower_the_loss_and_all_learns(model: MultiInstance) -> None:
    found = losses(model, model.views(labelled(), CPU))
    assert found[-1] < 0.5 * found[0]
    assert all(value.grad is not None for value in model.trained())


def test_no_classes_are_refused(small: Callable[..., Any]) -> None:
    with pytest.raises(SluiceError, match=r"list the values of the field 'labels'"):
        build(small("multi_instance", options={}))
