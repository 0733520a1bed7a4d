"""Short outputs of teachers, and whole ones made of them."""

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import roi_align

from pretrain.outputs import densify, fault, pooled, shorten, shorten_map
from tests.pretrain.taught import label_map, record


def probabilities(*shape: int) -> np.ndarray:
    given = np.exp(np.random.default_rng(0).normal(0, 4, shape))
    return (given / given.sum(-1, keepdims=True)).astype(np.float32)


def test_what_is_stored_is_off_by_no_more_than_is_said() -> None:
    given = probabilities(200, 50)
    classes, shares = shorten(given, 50)
    exact = np.take_along_axis(given, classes.astype(np.int64), 1)
    error = np.abs(shares.astype(np.float64) - exact)
    assert (error <= np.where(exact < 2**-14, 2.0**-25, exact / 2048)).all()
    assert (np.diff(shares.astype(np.float32), axis=1) <= 0).all()
    tied = shorten(np.full((1, 5), 0.2, np.float32), 3)[0]
    assert tied.tolist() == [[0, 1, 2]]


def test_a_few_probabilities_make_all_and_are_never_softened() -> None:
    """The published `zeros` takes a softmax over probabilities: 0.9 of 1000 classes became 0.2."""
    classes = np.asarray([[1, 3]], np.uint16)
    shares = np.asarray([[0.5, 0.25]], np.float16)
    assert densify(classes, shares, 4, spread=True)[0] == pytest.approx([0.125, 0.5, 0.125, 0.25])
    assert densify(classes, shares, 4, spread=False)[0] == pytest.approx([0, 2 / 3, 0, 1 / 3])
    one = np.asarray([[0]], np.uint16), np.asarray([[0.9]], np.float16)
    assert densify(*one, 1000, spread=False)[0, 0] == 1
    given = probabilities(30, 12)
    for top in (1, 5, 12):
        for spread in (True, False):
            made = densify(*shorten(given, top), 12, spread=spread)
            assert made.sum(1) == pytest.approx(1, abs=1e-6)
    assert made == pytest.approx(given, abs=1e-3)


def direct(scores: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Softmax of dense scores [h, w, classes] averaged over a crop: of every cell bilinear values
    on a grid of as many points as the crop has cells, a cell's centre being at half.
    """
    height, width, _ = scores.shape
    (y0, x0, y1, x1) = box * np.asarray([height, width, height, width])
    down, across = (int(np.ceil(high - low)) for low, high in ((y0, y1), (x0, x1)))
    total = np.zeros(scores.shape[2])
    for i in range(down):
        for j in range(across):
            y = np.clip(y0 + (i + 0.5) * (y1 - y0) / down - 0.5, 0, height - 1)
            x = np.clip(x0 + (j + 0.5) * (x1 - x0) / across - 0.5, 0, width - 1)
            top, left = int(y), int(x)
            low, right = min(top + 1, height - 1), min(left + 1, width - 1)
            b, a = y - top, x - left
            total += (1 - b) * ((1 - a) * scores[top, left] + a * scores[top, right])
            total += b * ((1 - a) * scores[low, left] + a * scores[low, right])
    grown = np.exp(total / (down * across))
    return grown / grown.sum()


def test_a_map_is_pooled_as_a_direct_computation_does() -> None:
    """Height and width are not mixed up: the map is 3 by 5, and crops are of all shapes."""
    rng = np.random.default_rng(1)
    scores = rng.normal(0, 3, (40, 3, 5, 9)).astype(np.float32)
    classes = np.broadcast_to(np.arange(9), scores.shape)
    low = rng.random((40, 2)) * 0.7
    boxes = np.concatenate([low, low + 0.1 + rng.random((40, 2)) * (0.9 - low)], 1)
    boxes = boxes.astype(np.float32)
    found = pooled(
        torch.from_numpy(classes.astype(np.int64)), torch.from_numpy(scores),
        torch.from_numpy(boxes), 9,
    )  # fmt: skip
    for row in range(40):
        assert found[row].numpy() == pytest.approx(direct(scores[row], boxes[row]), abs=1e-5)


def test_pooling_few_classes_is_pooling_dense_maps() -> None:
    rng = np.random.default_rng(2)
    classes, scores = shorten_map(rng.normal(0, 3, (6, 4, 7, 30)).astype(np.float32), 5)
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.9]]).expand(6, 4)
    dense = np.zeros((6, 4, 7, 30), np.float32)
    np.put_along_axis(dense, classes.astype(np.int64), scores.astype(np.float32), 3)
    corners = torch.tensor([[row, 0.2 * 7, 0.1 * 4, 0.9 * 7, 0.6 * 4] for row in range(6)])
    aligned = roi_align(torch.from_numpy(dense).permute(0, 3, 1, 2), corners, 1, aligned=True)
    found = pooled(
        torch.from_numpy(classes.astype(np.int64)), torch.from_numpy(scores).float(), boxes, 30
    )
    torch.testing.assert_close(found, aligned.flatten(1).softmax(-1), rtol=1e-4, atol=1e-6)


def test_the_whole_image_is_the_mean_of_the_map() -> None:
    scores = torch.randn(2, 4, 6, 3, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(3).expand(2, 4, 6, 3)
    found = pooled(classes, scores, torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(2, 4), 3)
    torch.testing.assert_close(found, scores.mean((1, 2)).softmax(-1))


def test_what_a_map_leaves_out_counts_as_much_as_it_did() -> None:
    """In each place, whatever constant a network adds to all its scores."""
    scores = np.random.default_rng(3).normal(-20, 3, (4, 4, 100)).astype(np.float32)
    classes, kept = shorten_map(scores, 5)
    whole = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    grown = np.exp(kept.astype(np.float64))
    shares = grown / (grown.sum(-1, keepdims=True) + 95)
    exact = np.take_along_axis(whole, classes.astype(np.int64), -1)
    assert shares == pytest.approx(exact, rel=1e-2)
    everything = shorten_map(scores, 100)[1]
    assert np.exp(everything.astype(np.float64)).mean(-1) == pytest.approx(1, rel=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"classes": None, "probabilities": None}, "no output"),
        ({"probabilities": None}, "lack classes or probabilities"),
        ({"classes": np.asarray([[1, 12], [1, 3]], np.uint16)}, "tells class 12, of 12"),
        ({"classes": np.asarray([[1], [3]], np.uint16)}, r"(2, 2) for classes (2, 1)"),
        ({"classes": [[1, 2]]}, "lack classes"),
        ({"probabilities": np.full((2, 2), 0.6, np.float16)}, "sum to 1.2"),
        ({"probabilities": np.zeros((2, 2), np.float16)}, "sum to 0"),
        ({"probabilities": np.full((2, 2), np.nan, np.float16)}, "are no numbers"),
        ({"probabilities": np.asarray([[3.1, -2.5]] * 2, np.float16)}, "sum to 0.6"),  # logits
        ({"box": None}, "of which views"),
        ({"flip": np.zeros(1, np.uint8)}, "of which views"),
    ],
)
def test_outputs_that_are_not_whole_are_told(change: dict[str, Any], message: str | None) -> None:
    found = fault({**record(1), **change}, "probabilities", 2, 12)
    assert found is None if message is None else message in str(found)


def test_so_are_maps() -> None:
    assert fault(label_map(1), "scores", 3, 12) is None
    assert "tells class 7, of 7" in str(fault(label_map(1), "scores", 3, 7))
    assert "lack classes or scores" in str(fault(record(1), "scores", 3, 12))
    assert "no output" in str(fault(None, "scores", 3, 12))
