"""Heads give what their torch modules give, one vector's score being its own alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from curation.heads.card import Card
from curation.heads.file import Declared, load_head
from curation.heads.head import ACTIVATIONS, Head, sigmoid
from tests.curation.heads.made import DIMENSIONS, PUBLISHED, TOLD, module, save, unit


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_heads_score_as_their_modules(tmp_path: Path, name: str) -> None:
    made = module(name)
    head = load_head(save(made, tmp_path / "head.safetensors"), Declared(**TOLD))
    vectors = unit(150, DIMENSIONS[name])
    with torch.no_grad():
        expected = made(torch.from_numpy(vectors.astype(np.float32)))[:, 0].numpy()
    found = head.apply(vectors)
    assert found.dtype == np.float32
    spread = float(expected.std())
    assert spread > 0.01  # a head that says the same of all would pass too
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5 * spread)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_score_does_not_depend_on_its_batch(tmp_path: Path, name: str) -> None:
    head = load_head(save(module(name), tmp_path / "head.safetensors"), Declared(**TOLD))
    vectors = unit(200, DIMENSIONS[name], seed=1)
    together = head.apply(vectors)
    assert head.apply(vectors[:0]).shape == (0,)
    rng = np.random.default_rng(2)
    for count in (1, 2, 63, 64, 69, 200):
        chosen = rng.permutation(200)[:count]
        assert head.apply(vectors[chosen]).tobytes() == together[chosen].tobytes()


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_those_of_torch(name: str) -> None:
    values = np.concatenate([np.linspace(-30, 30, 401), [-1e30, 1e30]]).astype(np.float32)
    theirs = {
        "none": lambda x: x,
        "relu": torch.relu,
        "gelu": torch.nn.functional.gelu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "softmax": lambda x: torch.softmax(x, 0),
    }[name]
    with np.errstate(over="raise", invalid="raise"):
        found = ACTIVATIONS[name](values)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, theirs(torch.from_numpy(values)), rtol=2e-6, atol=2e-6)


def test_a_sigmoid_stays_exact_far_out() -> None:
    values = np.array([-800.0, -40.0, 0.0, 40.0, 800.0])
    assert sigmoid(values).tolist() == [0.0, np.exp(-40.0), 0.5, 1.0, 1.0]


def test_what_grows_out_of_float32_is_no_score() -> None:
    card = Card(activations=("none",) * 2, dimension=2, **TOLD)
    weights = (np.full((1, 2), 1e30, np.float32), np.full((1, 1), 1e30, np.float32))
    head = Head(card, weights, (np.zeros(1, np.float32),) * 2)
    found = head.apply(np.array([[1, 0], [0, 0]], np.float16))
    assert np.isnan(found[0]) and found[1] == 0
