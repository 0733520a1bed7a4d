import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.synthetic import ifs
from curation.synthetic.ifs import (
    TRIALS,
    contraction,
    draw_system,
    filling_rate,
    is_flat,
    random_maps,
    traced,
    weights,
)
from curation.synthetic.settings import FractalSettings
from infra.digests import generator
from infra.errors import SluiceError

FRACTALDB = FractalSettings(parametrisation="fractaldb", maps=(2, 7), filling=0.2)


@given(st.integers(0, 10**6), st.integers(2, 8))
def test_singular_values_keep_their_order_and_the_sigma_factor(seed, count):
    values = ifs.singular_values(generator(seed), count)
    first, second = values.T
    assert (first <= 1 + 1e-12).all() and (second >= -1e-12).all()
    assert (first >= second - 1e-12).all()
    assert (5 + count) / 2 - 1e-9 <= (first + 2 * second).sum() <= (6 + count) / 2 + 1e-9


@given(st.integers(0, 10**6), st.integers(2, 4))
def test_maps_have_the_singular_values_they_were_drawn_with(seed, count):
    maps = random_maps(generator(seed), count)
    found = np.linalg.svd(maps[:, :4].reshape(-1, 2, 2), compute_uv=False)
    np.testing.assert_allclose(found, ifs.singular_values(generator(seed), count), atol=1e-9)
    assert contraction(maps, "svd") == pytest.approx(found.max(), abs=1e-9)
    assert (np.abs(maps[:, 4:]) <= 1).all()


def test_maps_are_chosen_in_proportion_to_their_area():
    maps = np.zeros((3, 6))
    maps[:, 0] = maps[:, 3] = [0.8, 0.4, 0.0]  # areas 0.64, 0.16 and none at all
    np.testing.assert_allclose(weights(maps), np.array([0.64, 0.16, 0.016]) / 0.816)


@pytest.mark.parametrize("options", [FractalSettings(), FRACTALDB], ids=["svd", "fractaldb"])
@settings(max_examples=30, deadline=None)
@given(number=st.integers(0, 10**6), seed=st.integers(0, 10))
def test_no_system_diverges_or_degenerates(options, number, seed):
    options = options.model_copy(update={"seed": seed})
    system = draw_system(options, number)
    assert options.maps[0] <= len(system.maps) <= options.maps[1]
    assert contraction(system.maps, options.parametrisation) <= options.contraction
    # Another orbit finds the same: it stays near the box, is no line, and fills.
    again = traced(system.maps, key=99)
    assert np.isfinite(again.points).all() and not is_flat(again)
    left, top, right, bottom = system.box
    margin = 0.5 * max(right - left, bottom - top)
    xs, ys = again.points
    inside = (xs > left - margin) & (xs < right + margin) & (ys > top - margin)
    assert (inside & (ys < bottom + margin)).mean() > 0.99
    assert filling_rate(again, *TRIALS[options.parametrisation], key=5) > options.filling * 0.7


def plane(*rows: list[float]) -> np.ndarray:
    return np.array(rows, float)


@pytest.mark.parametrize(
    "maps",
    [
        plane([2, 0, 0, 2, 0, 1], [1.5, 0, 0, 1.5, 1, 0]),  # goes to infinity
        plane([0.5, 0, 0, 0.5, 1, 1], [0.3, 0, 0, 0.3, 1.4, 1.4]),  # one point, (2, 2)
        plane([0.5, 0, 0, 0.5, 0, 0], [0.5, 0, 0, 0.5, 1, 1]),  # a slanted line
        plane([0.5, 0, 0, 0.5, 0, 0], [0.5, 0, 0, 0.5, 1, 0]),  # a level line
        plane([np.nan, 0, 0, 0.5, 0, 0], [0.5, 0, 0, 0.5, 1, 0]),
        plane([1, 0, 0, 1, 1, 1], [1, 0, 0, 1, 1, 0]),  # wanders off, and map 0 moves every point
    ],
)
def test_what_diverges_or_degenerates_is_known(maps):
    assert is_flat(traced(maps))


def test_a_plane_system_is_not_flat():
    assert not is_flat(
        traced(plane([0.5, 0, 0, 0.5, 0, 0], [0.5, 0, 0, 0.5, 1, 0], [0.5, 0, 0, 0.5, 0, 1]))
    )


def test_a_system_is_a_function_of_seed_and_number():
    ifs._draw.cache_clear()
    maps = draw_system(FractalSettings(seed=3), 5).maps
    ifs._draw.cache_clear()
    np.testing.assert_array_equal(maps, draw_system(FractalSettings(seed=3, size=32), 5).maps)
    assert draw_system(FractalSettings(seed=4), 5).maps.tolist() != maps.tolist()


def test_fractaldb_draws_other_systems_some_of_which_stretch():
    systems = [draw_system(FRACTALDB, number) for number in range(20)]
    assert len({len(system.maps) for system in systems}) > 2
    assert any(contraction(system.maps, "svd") > 1 for system in systems)


def test_impossible_systems_end_with_a_way_out(monkeypatch):
    monkeypatch.setattr(ifs, "ATTEMPTS", 5)
    with pytest.raises(SluiceError, match="no fractal system 0 in 5 draws") as error:
        draw_system(FractalSettings(filling=0.9), 0)
    assert "fractals.filling" in error.value.way_out
