"""Patches that are left out: masks, what fills them, files that stay whole."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from curation.decode import decode
from curation.patches import GRID, drop_patches, fill, masks, unpack
from curation.stored import read_stored
from flows.demo.photos import load

CENTRE = np.zeros((GRID, GRID), bool)
CENTRE[3:11, 3:11] = True


def packed(kept: np.ndarray) -> bytes:
    return masks(kept.reshape(1, -1).astype(np.float32), kept.mean())[0].as_py()


def photo(name: str = "cat") -> np.ndarray:
    return np.asarray(load(name))


def encoded(pixels: np.ndarray, kind: str = "JPEG", **more: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **more)
    return buffer.getvalue()


@given(st.floats(0.01, 1), st.integers(0, 2**31))
def test_masks_keep_the_most_important(keep: float, seed: int) -> None:
    importance = np.random.default_rng(seed).random((3, GRID * GRID)).astype(np.float16)
    importance[1] = 0
    found = masks(importance, keep)
    assert found.is_null().to_pylist() == [False, True, False]
    for row in (0, 2):
        kept = unpack(found[row].as_py()).ravel()
        assert kept.sum() == max(round(keep * GRID * GRID), 1)
        assert importance[row][kept].min() >= importance[row][~kept].max(initial=0)


@pytest.mark.parametrize("size", [(14, 14), (100, 31), (224, 300), (500, 15)])
def test_what_is_kept_is_untouched(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    filled = fill(pixels, CENTRE)
    changed = (filled != pixels).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1) == (0, 0, *size)
    inner = [slice(round(side * 0.35), round(side * 0.7)) for side in size]
    assert not changed[tuple(inner)].any()
    assert (fill(pixels, np.ones((GRID, GRID), bool)) == pixels).all()


def test_the_mean_of_what_is_around() -> None:
    pixels = np.zeros((28, 28, 3), np.uint8)
    pixels[:, 14:] = 200
    kept = np.ones((GRID, GRID), bool)
    kept[5, 7] = False  # three neighbours are black, five are 200: five eighths of it
    assert fill(pixels, kept)[10:12, 14:16].tolist() == np.full((2, 2, 3), 125).tolist()
    kept[:] = False
    kept[0, 0] = True  # the only one that is known fills all
    assert not fill(pixels, kept).any()


@pytest.mark.parametrize(("kind", "more"), [("JPEG", {"quality": 83}), ("PNG", {}), ("WEBP", {})])
def test_files_become_smaller_and_stay_what_they_are(kind: str, more: dict[str, int]) -> None:
    data = encoded(photo(), kind, **more)
    made = drop_patches(data, packed(CENTRE))
    assert len(made) < 0.8 * len(data)
    assert Image.open(io.BytesIO(made)).format == kind
    before, after = decode(data)[0], decode(made)[0]
    assert before is not None and after is not None and before.shape == after.shape
    middle = tuple(slice(int(side * 0.35), int(side * 0.7)) for side in before.shape[:2])
    assert np.abs(before[middle].astype(int) - after[middle]).mean() < 6
    if kind == "JPEG":
        assert read_stored(made, 1).quality == 83


def test_an_image_is_turned_upright_first() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photo()[:200, :300], exif=exif.tobytes(), quality=90)
    made = Image.open(io.BytesIO(drop_patches(data, packed(CENTRE))))
    assert made.size == (200, 300) and 0x0112 not in made.getexif()


def test_what_cannot_be_filled_stays_as_it_is() -> None:
    mask = packed(CENTRE)
    frames = [Image.fromarray(photo()[i : i + 64, :64]) for i in (0, 64)]
    moving = io.BytesIO()
    frames[0].save(moving, "WEBP", save_all=True, append_images=frames[1:])
    tiny = encoded(photo()[:10, :300])
    flat = encoded(np.full((64, 64, 3), 9, np.uint8), "PNG", optimize=True)
    for data in (b"", b"no image", encoded(photo())[:500], moving.getvalue(), tiny, flat):
        assert drop_patches(data, mask) == data
