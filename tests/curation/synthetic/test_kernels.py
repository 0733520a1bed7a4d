import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.synthetic import kernels
from curation.synthetic.ifs import random_maps, turns, weights
from curation.synthetic.kernels import COLUMNS, ORBITS, word
from infra.digests import generator

SIERPINSKI = np.array(
    [[0.5, 0, 0, 0.5, 0, 0], [0.5, 0, 0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5, 0.25, 0.5]]
)
MASK = 2**64 - 1


def splitmix64(key: int, index: int) -> int:
    z = (key + (index + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def arranged(shares: np.ndarray, key: int) -> np.ndarray:
    places = np.empty(ORBITS, np.uint8)
    kernels.arrange(shares, np.uint64(key), places)
    return places


def orbits(maps: np.ndarray, key: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    points = generator(key).uniform(0, 1, (2, ORBITS)).astype(np.float32)
    return maps.astype(np.float32), arranged(weights(maps), key), points


def steps(maps: np.ndarray, places: np.ndarray, points: np.ndarray, count: int):
    """The orbits one after the other, in single precision and without a trick."""
    x, y = points.copy()
    for turn in turns(count):
        a, b, c, d, e, f = maps[np.roll(places, -turn)].T
        x, y = a * x + b * y + e, c * x + d * y + f
        yield x, y


def test_words_are_those_of_splitmix64():
    # The first outputs of the published generator for seed 0.
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [int(word(np.uint64(0), index)) for index in range(3)] == expected
    assert int(word(np.uint64(MASK), 10**6)) == splitmix64(MASK, 10**6)


def test_maps_stand_on_places_by_their_weight():
    shares = np.array([0.5, 0.3, 0.199, 0.001])
    counts = np.stack([np.bincount(arranged(shares, key), minlength=4) for key in range(400)])
    assert (np.abs(counts - ORBITS * shares) < 1).all()
    np.testing.assert_allclose(counts.mean(axis=0), ORBITS * shares, atol=0.1)
    assert (arranged(shares, 1) != arranged(shares, 2)).mean() > 0.4


def test_an_orbit_takes_maps_independently():
    """Pairs of maps in a row, and of two orbits in one step, are as frequent as chance says."""
    shares = np.array([0.6, 0.3, 0.1])
    following, beside, total = np.zeros((3, 3)), np.zeros((3, 3)), 0
    for key in range(20):
        places = arranged(shares, key)
        taken = np.stack([np.roll(places, -turn) for turn in turns(300)])
        np.add.at(following, (taken[:-1].ravel(), taken[1:].ravel()), 1)
        np.add.at(beside, (taken.ravel(), np.roll(taken, 1, axis=1).ravel()), 1)
        total += taken.size
    expected = np.outer(shares, shares)
    np.testing.assert_allclose(following / following.sum(), expected, atol=0.01)
    np.testing.assert_allclose(beside / total, expected, atol=0.02)


def test_trace_and_visit_agree_with_a_plain_loop():
    maps, places, start = orbits(random_maps(generator(4), 3), 7)
    points = start.copy()
    box = kernels.trace(maps, places, turns(40), 10, points)
    xs, ys = np.stack(list(steps(maps, places, start, 40)), axis=1)
    np.testing.assert_array_equal(points, [xs[-1], ys[-1]])
    assert box == (xs[10:].min(), ys[10:].min(), xs[10:].max(), ys[10:].max())

    maps[:, 4:] *= 8  # an attractor around 0: a quarter of it is inside
    counts = np.zeros((14, 10), np.uint32)
    kernels.visit(maps, places, turns(40), 40 * ORBITS, start, counts)
    xs, ys = np.stack(list(steps(maps, places, start, 40)), axis=1)
    expected = np.zeros((14, 10), np.uint32)
    np.add.at(expected, (ys.clip(0, 13.5).astype(int), xs.clip(0, 9.5).astype(int)), 1)
    np.testing.assert_array_equal(counts, expected)


@given(st.integers(0, 10**6), st.integers(1, 3000), st.sampled_from([np.nan, np.inf, -1e30, 0.5]))
def test_every_point_is_counted_once(key, total, start):
    """Those outside, and what is no number, in the margin."""
    maps, places, points = orbits(SIERPINSKI * 9, key)
    points[:, ::3] = start
    counts = np.zeros((12, 12), np.uint32)
    kernels.visit(maps, places, turns(-(-total // ORBITS)), total, points, counts)
    assert counts.sum() == total


def test_maps_act_in_pixels_as_in_the_plane():
    maps = random_maps(generator(1), 2)
    view = kernels.flipped(
        kernels.framed((-1.0, -2.0, 3.0, 1.0), 64), np.full(kernels.NUMBERS, 0.1), 64
    )
    a, b, c, d, e, f = view
    points = generator(2).uniform(-1, 1, (2, ORBITS)).astype(np.float32)
    seen, moved = np.empty((2, COLUMNS), np.float32), points.copy()
    kernels.see(maps, moved, view, seen)
    np.testing.assert_allclose(
        moved, [a * points[0] + b * points[1] + e, c * points[0] + d * points[1] + f], rtol=1e-6
    )
    p, q, r, s, t, u = maps[1]
    x, y = p * points[0] + q * points[1] + t, r * points[0] + s * points[1] + u
    p, q, r, s, t, u = seen[1]
    np.testing.assert_allclose(
        [p * moved[0] + q * moved[1] + t, r * moved[0] + s * moved[1] + u],
        [a * x + b * y + e, c * x + d * y + f], atol=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize("coins", range(8))
def test_flips_keep_the_frame(coins):
    numbers = np.full(kernels.NUMBERS, 0.9)
    for bit in range(3):
        numbers[kernels.FLIPS + bit] = 0.9 if coins >> bit & 1 else 0.1
    a, b, c, d, e, f = kernels.flipped(kernels.framed((0, 0, 2, 4), 32), numbers, 32)
    corners = {(a * x + b * y + e, c * x + d * y + f) for x in (0, 2) for y in (0, 4)}
    assert corners == {(1, 1), (1, 33), (33, 1), (33, 33)}


def test_contraction_is_the_largest_singular_value_or_a_mean():
    maps = random_maps(generator(3), 4)
    values = np.linalg.svd(maps[:, :4].reshape(-1, 2, 2), compute_uv=False)[:, 0]
    shares = weights(maps)
    assert kernels.contraction(maps, shares, False) == pytest.approx(values.max())
    expected = np.exp((shares * np.log(values)).sum())
    assert kernels.contraction(maps, shares, True) == pytest.approx(expected)


def test_jitter_changes_one_map_and_stays_contractive():
    original = random_maps(generator(5), 3)
    for seed in range(30):
        maps, shares = original.copy(), weights(original)
        numbers = generator(seed).uniform(0, 1, kernels.NUMBERS)
        done = kernels.jitter(maps, shares, numbers, 0.99, False)
        changed = (maps != original).any(axis=1)
        assert changed.sum() == done
        np.testing.assert_array_equal(shares, weights(maps))
        if done:
            assert kernels.contraction(maps, shares, False) <= 0.99
            assert 0.8 <= maps[changed, 0] / original[changed, 0] <= 1.1
