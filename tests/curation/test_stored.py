import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from curation.decode import decode_upright
from curation.stored import Stored, nearest_quality, read_stored

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8))


def encode(kind: str, image: Image.Image = PICTURE, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def stored(data: bytes) -> Stored:
    return read_stored(data, decode_upright(data).orientation)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_the_quality_of_a_jpeg(mode: str) -> None:
    """As Pillow writes them; below 1 it knows no quality."""
    image = PICTURE.convert(mode)
    found = [stored(encode("JPEG", image, quality=quality)).quality for quality in range(1, 101)]
    assert found == list(range(1, 101))


def test_the_quality_of_tables_of_their_own() -> None:
    assert nearest_quality(np.ones(64, np.int64)) == 100
    assert nearest_quality(np.full(64, 65535)) == 1
    assert stored(encode("JPEG", qtables=[[1] * 64, [2] * 64])).quality == 100


def test_tables_of_sixteen_bits() -> None:
    data = encode("JPEG", quality=75)
    at = data.index(b"\xff\xdb")
    table = data[at + 5 : at + 69]
    wide = b"\xff\xdb" + (2 + 129).to_bytes(2, "big") + b"\x10"
    wide += b"".join(bytes([0, value]) for value in table)
    assert read_stored(data[:at] + wide + data[at + 69 :], 1).quality == 75


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_other_formats_have_no_quality(kind: str) -> None:
    assert stored(encode(kind)) == Stored(1, None, False)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_orientation_is_that_of_the_file(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert stored(encode(kind, exif=exif)).orientation == orientation


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations(kind: str) -> None:
    other = Image.fromarray(255 - np.asarray(PICTURE))
    assert stored(encode(kind, save_all=True, append_images=[other])).animated
    assert not stored(encode(kind)).animated


@given(st.sampled_from([encode("JPEG"), encode("PNG"), encode("WEBP")]), st.data())
def test_any_bytes_give_an_answer(data: bytes, draw: st.DataObject) -> None:
    changed = bytearray(data[: draw.draw(st.integers(0, len(data)))])
    for _ in range(draw.draw(st.integers(0, 8))):
        if changed:
            changed[draw.draw(st.integers(0, min(len(changed), 200) - 1))] = draw.draw(
                st.integers(0, 255)
            )
    found = read_stored(bytes(changed), 1)
    assert found.quality is None or 1 <= found.quality <= 100
