import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.synthetic import ifs
from curation.synthetic.ifs import choice_table, draw_system, filling_rate, jittered, random_maps
from curation.synthetic.kernels import TABLE
from curation.synthetic.settings import FractalSettings
from infra.digests import generator
from infra.errors import SluiceError


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
    assert ifs.largest_singular_value(maps) == pytest.approx(found.max(), abs=1e-9)
    assert (np.abs(maps[:, 4:]) <= 1).all()


def test_maps_are_chosen_in_proportion_to_their_area():
    maps = np.zeros((3, 6))
    maps[:, 0] = maps[:, 3] = [0.8, 0.4, 0.0]  # areas 0.64, 0.16 and none at all
    shares = np.bincount(choice_table(maps), minlength=3) / TABLE
    np.testing.assert_allclose(shares, np.array([0.64, 0.16, 0.016]) / 0.816, atol=1e-3)


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_no_system_diverges_or_degenerates(number):
    options = FractalSettings()
    system = draw_system(options, number)
    assert 2 <= len(system.maps) <= 4
    assert ifs.largest_singular_value(system.maps) <= options.contraction
    assert filling_rate(system, key=99) > options.filling * 0.8  # another orbit finds it, too


def test_a_system_is_a_function_of_seed_and_number():
    ifs._draw.cache_clear()
    maps = draw_system(FractalSettings(seed=3), 5).maps
    ifs._draw.cache_clear()
    np.testing.assert_array_equal(maps, draw_system(FractalSettings(seed=3, size=32), 5).maps)
    assert draw_system(FractalSettings(seed=4), 5).maps.tolist() != maps.tolist()


def test_impossible_systems_end_with_a_way_out(monkeypatch):
    monkeypatch.setattr(ifs, "ATTEMPTS", 5)
    with pytest.raises(SluiceError, match="no fractal system 0 in 5 draws") as error:
        draw_system(FractalSettings(filling=0.9), 0)
    assert "fractals.filling" in error.value.way_out


def test_jitter_changes_one_map_and_stays_contractive():
    system = draw_system(FractalSettings(), 1)
    for seed in range(20):
        maps = jittered(system, generator(seed), 0.99).maps
        changed = (maps != system.maps).any(axis=1)
        assert changed.sum() <= 1
        assert ifs.largest_singular_value(maps) <= 0.99
