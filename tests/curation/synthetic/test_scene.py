import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from curation.synthetic.scene import draw_scene, place
from curation.synthetic.settings import FractalSettings

SCENES = FractalSettings(size=48, points=3000, objects=(1, 5), systems=10)


def test_a_scene_is_a_function_of_settings_and_number():
    scenes = [draw_scene(SCENES, number) for number in range(12)]
    for number in reversed(range(12)):
        image, shown = draw_scene(SCENES, number)
        np.testing.assert_array_equal(image, scenes[number][0])
        assert shown == scenes[number][1]
    assert len({image.tobytes() for image, _ in scenes}) == 12
    pixels = hashlib.sha256(b"".join(image.tobytes() for image, _ in scenes)).hexdigest()
    assert pixels[:16] == "1b52b6b3e62eabaa"  # changes with CODE in fractals.py


def test_labels_are_the_systems_shown():
    counts = set()
    for number in range(60):
        image, shown = draw_scene(SCENES, number)
        assert image.shape == (48, 48, 3) and image.dtype == np.uint8
        assert list(shown) == sorted(set(shown)) and set(shown) <= set(range(10))
        counts.add(len(shown))
    assert counts == {1, 2, 3, 4, 5}


def test_only_the_objects_lie_over_the_background():
    """One system alone, on black: what is not black is its."""
    one = SCENES.model_copy(update={"background": "black", "objects": (1, 1)})
    lit = [(draw_scene(one, number)[0].sum(axis=2) > 0) for number in range(30)]
    assert all(each.sum() > 0 for each in lit)
    assert max(each.mean() for each in lit) < 0.6**2
    more = one.model_copy(update={"objects": (5, 5)})
    assert np.mean([(draw_scene(more, n)[0].sum(axis=2) > 0).mean() for n in range(30)]) > (
        2 * np.mean([each.mean() for each in lit])
    )


@given(
    st.integers(16, 300), st.floats(0.05, 1), st.lists(st.floats(0, 0.999), min_size=2, max_size=30)
)
def test_at_least_half_of_an_object_is_inside(size, share, numbers):
    side = max(8, round(size * share))
    top, left = place(side, size, numbers[: len(numbers) // 2 * 2])
    rows = min(top + side, size) - max(top, 0)
    columns = min(left + side, size) - max(left, 0)
    assert rows > 0 and columns > 0
    assert 2 * rows * columns >= side * side
