"""PyTorch on the CPU: the code a GPU runs, though no GPU runs it here."""

import numpy as np
import pytest
import torch

from curation.synthetic.plans import planned, planned_all
from curation.synthetic.render import draw, visits
from curation.synthetic.settings import FractalSettings
from curation.synthetic.torch_render import draw_batch
from curation.synthetic.torch_render import visits as torch_visits

WANTED = [(number // 3, number % 3) for number in range(9)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"background": "gradient", "fill": "graded", "blur": 0.5},
        {"background": "black", "fill": "patch", "size": 33, "flips": False},
        {"fill": "patches", "colour": False, "jitter": False, "zoom": False},
        {"parametrisation": "fractaldb", "maps": (2, 7)},
    ],
    ids=str,
)
def test_both_renderers_agree(options):
    """In every count and, but for a last bit of a logarithm, in every pixel."""
    settings = FractalSettings(**({"size": 48, "points": 5001} | options))
    plans = [planned(settings, *pair, settings.size) for pair in WANTED]
    counts = torch_visits(planned_all(settings, WANTED, settings.size), settings.points, "cpu")
    expected = np.stack([visits(plan, settings.points) for plan in plans])
    np.testing.assert_array_equal(counts.numpy(), expected)

    images = draw_batch(settings, WANTED, "cpu")
    assert images.dtype == torch.uint8 and images.device.type == "cpu"
    expected = np.stack([draw(settings, *pair) for pair in WANTED])
    away = np.abs(images.numpy().astype(int) - expected).max(axis=-1)
    assert away.max() <= 6 and (away > 0).mean() < 1e-3  # a level of 255 is up to 6 of a channel


def test_batches_do_not_matter(monkeypatch):
    settings = FractalSettings(size=32, points=2000)
    whole = draw_batch(settings, WANTED, "cpu")
    monkeypatch.setattr("curation.synthetic.torch_render.PAINTED", 2)
    assert torch.equal(whole, draw_batch(settings, WANTED, "cpu"))
    assert torch.equal(whole[4:5], draw_batch(settings, WANTED[4:5], "cpu"))


def test_what_is_no_number_falls_into_the_margin():
    plans = planned_all(FractalSettings(), [(0, 0)], 16)
    plans.maps[:] = np.nan
    counts = torch_visits(plans, 1000, "cpu")[0]
    assert counts[0, 0] == counts.sum() == 1000


def test_a_batch_that_is_too_large_is_refused():
    plans = planned_all(FractalSettings(), [(0, 0)] * 2041, 1024)
    with pytest.raises(ValueError, match="2\\*\\*31"):
        torch_visits(plans, 1000, "cpu")
