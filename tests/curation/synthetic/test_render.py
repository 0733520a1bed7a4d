import hashlib
import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numba as nb
import numpy as np
import pytest
from PIL import Image

from curation.synthetic.ifs import draw_system, weights
from curation.synthetic.plans import planned
from curation.synthetic.render import draw, encode, visits
from curation.synthetic.settings import FractalSettings

SMALL = FractalSettings(size=32, points=4000)
EVERYTHING = {
    "density": {},
    "graded": {"fill": "graded", "background": "black"},
    "patch": {"fill": "patch", "background": "gradient"},
    "patches": {"fill": "patches", "colour": False},
    "blur": {"blur": 1.0, "jitter": False, "zoom": False, "flips": False},
    "fractaldb": {"parametrisation": "fractaldb", "maps": (2, 7)},
}
GOLDEN = {
    "density": "baaaed9732560425",
    "graded": "d86717fafbaf6c7a",
    "patch": "7e5751aeaabf439b",
    "patches": "4e7478e440db811c",
    "blur": "602c2e5e5b741e94",
    "fractaldb": "4c68cf753ec21116",
}


def pixels(name: str) -> str:
    settings = FractalSettings(size=40, points=5000, **EVERYTHING[name])
    digest = hashlib.sha256()
    for system, instance in ((0, 0), (1, 7), (2, 3)):
        digest.update(draw(settings, system, instance).tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("name", EVERYTHING)
def test_golden_pixels(name):
    """They change with CODE in fractals.py, and only then."""
    assert pixels(name) == GOLDEN[name]


def test_an_image_depends_on_system_and_instance_not_on_order():
    wanted = [(0, 0), (0, 1), (1, 0), (3, 7)]
    images = {key: draw(SMALL, *key) for key in wanted}
    for key in reversed(wanted):
        np.testing.assert_array_equal(images[key], draw(SMALL, *key))
    assert len({image.tobytes() for image in images.values()}) == len(wanted)
    assert images[0, 0].shape == (32, 32, 3) and images[0, 0].dtype == np.uint8


def test_threads_and_processes_draw_the_same_bytes():
    wanted = [(system, instance) for system in range(4) for instance in range(4)]
    alone = [draw(SMALL, *each).tobytes() for each in wanted]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda each: draw(SMALL, *each).tobytes(), wanted)) == alone
    code = (
        "import sys; from curation.synthetic.render import draw; "
        "from curation.synthetic.settings import FractalSettings; "
        "sys.stdout.buffer.write(draw(FractalSettings(size=32, points=4000), 3, 2).tobytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == alone[wanted.index((3, 2))]


@nb.njit
def chaos_game(maps, shares, points, seed, counts):
    """One orbit of double precision, from the definition."""
    np.random.seed(seed)
    x = y = 0.0
    for index in range(-100, points):
        coin, k = np.random.random(), 0
        while k < len(shares) - 1 and coin >= shares[k]:
            coin -= shares[k]
            k += 1
        x, y = (
            maps[k, 0] * x + maps[k, 1] * y + maps[k, 4],
            maps[k, 2] * x + maps[k, 3] * y + maps[k, 5],
        )
        if index >= 0:
            row, column = min(max(y, 0.0), len(counts) - 0.5), min(max(x, 0.0), len(counts) - 0.5)
            counts[int(row), int(column)] += 1


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Total variation, from 0 to 1, of the densities on 16 x 16 cells."""
    shares = [
        each[1:-1, 1:-1].reshape(16, 4, 16, 4).sum(axis=(1, 3)) / each[1:-1, 1:-1].sum()
        for each in (one, other)
    ]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


@pytest.mark.parametrize("kind", ["svd", "fractaldb"])
def test_the_density_is_that_of_a_single_orbit(kind):
    """Hardly farther from the limit than a plain chaos game of as many points is itself."""
    settings = FractalSettings(size=64, jitter=False, zoom=False, parametrisation=kind)
    found = []
    for system in range(12):
        plan = planned(settings, system, 0, 64)
        maps, shares = plan.maps.astype(float), weights(draw_system(settings, system).maps)
        limit, plain = np.zeros((66, 66), np.int64), np.zeros((66, 66), np.int64)
        chaos_game(maps, shares, 1_000_000, 1, limit)
        chaos_game(maps, shares, 20_000, 2, plain)
        found.append((distance(visits(plan, 20_000), limit), distance(plain, limit)))
        assert distance(visits(plan, 1_000_000), limit) < 0.03
    ours, theirs = np.mean(found, axis=0)
    assert ours < 1.2 * theirs


def test_few_points_are_lost_outside():
    settings = FractalSettings(size=64, jitter=False, zoom=False)
    for system in range(20):
        counts = visits(planned(settings, system, 0, 64), 20_000)
        assert counts.sum() == 20_000
        assert counts[1:-1, 1:-1].sum() > 0.99 * 20_000


def test_other_seeds_give_other_images():
    other = SMALL.model_copy(update={"seed": 1})
    assert draw(SMALL, 0, 0).tobytes() != draw(other, 0, 0).tobytes()


@pytest.mark.parametrize("size", [16, 33, 100])
def test_any_size(size):
    image = draw(FractalSettings(size=size, points=2000), 2, 0)
    assert image.shape == (size, size, 3)
    assert image.std() > 5


def test_black_background_leaves_the_fractal_alone():
    image = draw(SMALL.model_copy(update={"background": "black"}), 0, 0)
    lit = (image.sum(axis=2) > 0).mean()
    assert 0.02 < lit < 0.95


def test_gradient_background_is_smooth():
    options = SMALL.model_copy(update={"background": "gradient", "colour": False})
    image = draw(options, 0, 0)[:, :, 0].astype(int)
    steps = np.abs(np.diff(image, axis=0))
    assert np.median(steps) <= 8  # away from the fractal, levels hardly change


def test_grey_images_are_grey():
    image = draw(SMALL.model_copy(update={"colour": False}), 1, 1)
    assert (image[:, :, 0] == image[:, :, 1]).all() and (image[:, :, 1] == image[:, :, 2]).all()


def test_fractaldb_patches_are_grey_on_black():
    options = {"fill": "patches", "colour": False, "background": "black"}
    image = draw(SMALL.model_copy(update=options), 1, 1)
    assert set(np.unique(image)) == {0, 127}


def test_the_share_of_blurred_images():
    sharp = [draw(SMALL, 0, instance) for instance in range(40)]
    some = SMALL.model_copy(update={"blur": 0.5})
    equal = [(draw(some, 0, instance) == sharp[instance]).all() for instance in range(40)]
    assert 8 < sum(equal) < 32


@pytest.mark.parametrize("kind", ["svd", "fractaldb"])
def test_no_image_is_empty(kind):
    black = SMALL.model_copy(update={"background": "black", "parametrisation": kind})
    for system in range(5):
        for instance in range(20):
            assert (draw(black, system, instance).sum(axis=2) > 0).mean() > 0.02


def test_encoding_is_repeatable_and_png_is_lossless():
    image = draw(SMALL, 0, 3)
    for form, magic in (("png", b"\x89PNG"), ("jpg", b"\xff\xd8\xff")):
        data = encode(image, form)
        assert data == encode(image.copy(), form) and data.startswith(magic)
    decoded = np.asarray(Image.open(io.BytesIO(encode(image, "png"))))
    np.testing.assert_array_equal(decoded, image)
