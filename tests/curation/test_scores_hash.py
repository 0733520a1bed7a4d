import hashlib
import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from curation.decode import decode
from curation.perceptual import dhash, dhash_of, phash, phash_of, pixel_sha256
from curation.score import Batch
from curation.scores.hash import HashScorer, reduced


def photo(name: str = "astronaut", size: int = 96) -> Image.Image:
    image = Image.fromarray(getattr(data, name)()).convert("RGB")
    return image.resize((size, size), Image.Resampling.LANCZOS)


def distance(first: Image.Image, second: Image.Image) -> tuple[int, int]:
    """Bits in which pHash and dHash of two pictures differ."""
    grey = [first.convert("L"), second.convert("L")]
    return tuple(int(pair[0] ^ pair[1]).bit_count() for pair in (phash(grey), dhash(grey)))  # type: ignore[return-value]


def recoded(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    pixels, _ = decode(buffer.getvalue())
    assert pixels is not None
    return Image.fromarray(pixels)


def test_changes_that_keep_a_picture_keep_its_hashes_close() -> None:
    for name in ("astronaut", "coffee", "chelsea"):
        image = photo(name)
        brighter = Image.fromarray((np.asarray(image) * 0.8 + 30).astype(np.uint8))
        for other in (recoded(image, 60), image.resize((64, 64)), brighter):
            assert max(distance(image, other)) <= 8


def test_different_pictures_are_far_apart() -> None:
    pictures = [photo(name) for name in ("astronaut", "coffee", "chelsea", "rocket")]
    for index, first in enumerate(pictures):
        for second in pictures[index + 1 :]:
            assert min(distance(first, second)) >= 16


def test_dhash_is_the_gradient() -> None:
    ramp = np.tile(np.arange(0, 252, 28, dtype=np.uint8), (8, 1))
    rising, falling = Image.fromarray(ramp), Image.fromarray(ramp[:, ::-1].copy())
    assert dhash([rising, falling]).tolist() == [2**64 - 1, 0]


def test_phash_bits_are_signs_against_the_median() -> None:
    image = photo().convert("L")
    assert int(phash([image])[0]).bit_count() == 32


def test_a_flat_picture_has_no_random_bits() -> None:
    flat = [Image.new("L", (size, size), shade) for size in (8, 50) for shade in (0, 77, 255)]
    assert phash(flat).tolist() == [0] * 6
    assert dhash(flat).tolist() == [0] * 6


def test_a_hash_does_not_depend_on_its_batch() -> None:
    grey = [photo(name).convert("L") for name in ("astronaut", "coffee", "rocket")]
    assert [int(phash([image])[0]) for image in grey] == phash(grey).tolist()
    assert phash([]).shape == (0,)


def test_pixel_sha256_sees_pixels_and_shape_alone() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    expected = hashlib.sha256(b"\2\0\0\0\4\0\0\0" + bytes(range(24))).hexdigest()
    assert pixel_sha256(pixels) == expected
    assert pixel_sha256(pixels.reshape(4, 2, 3)) != expected
    assert pixel_sha256(np.asfortranarray(pixels)) == expected


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 7), st.integers(0, 2**32 - 1))
def test_the_compiled_hashes_are_those_of_block_lists(
    height: int, width: int, shift: int, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8) >> shift
    grey = [Image.fromarray(image).convert("L")]
    square, wide = reduced([image])
    assert phash_of(square).tolist() == phash(grey).tolist()
    assert dhash_of(wide).tolist() == dhash(grey).tolist()


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (700, 401), (401, 700)], ids=str)
def test_what_hashes_see_is_pillows_box_filter(size: tuple[int, int]) -> None:
    """Rows before columns, in whole numbers: the same for every version of Pillow."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    narrow = Image.fromarray(image).convert("L").resize((32, size[0]), Image.Resampling.BOX)
    expected = np.asarray(narrow.resize((32, 32), Image.Resampling.BOX))
    assert np.array_equal(reduced([image])[0][0], expected)


def test_golden_hashes() -> None:
    """Block lists and stored columns hold them: a change here is a change of what they mean."""
    product = np.outer(np.arange(60), np.arange(50)) // 7
    image = np.stack([product, product[::-1], 255 - product], axis=2).astype(np.uint8)
    square, wide = reduced([image])
    assert int(phash_of(square)[0]) == 0x3696D6525A4AABA9
    assert int(dhash_of(wide)[0]) == 0xFBF9FCFFFFFEF9FB


def test_columns() -> None:
    rows = pa.table({"status": ["ok", "rejected"]})
    pixels = np.asarray(photo())
    table = HashScorer().score(Batch(rows, [pixels, None], [None, None])).columns
    assert table.schema.field("phash").type == pa.uint64()
    assert table["dhash"].to_pylist()[1] is None
    assert table["pixel_sha256"].to_pylist() == [pixel_sha256(pixels), None]
