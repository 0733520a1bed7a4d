"""What training decodes, and what it refuses."""

import io

import numpy as np
import pytest
from PIL import Image

from pretrain import decoded
from pretrain.decoded import decode


def picture(height: int, width: int) -> Image.Image:
    """Slopes and a box, which no scale hides."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([255 * y / height, 255 * x / width, 128 + 0 * x], axis=2).astype(np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = (250, 20, 20)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


@pytest.mark.parametrize("size", [(300, 200), (96, 96), (256, 256), (40, 700), (16, 24), (16, 16)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_of_any_size_is_what_it_shows(size: tuple[int, int], mode: str) -> None:
    image = picture(*size).convert(mode)
    pixels, found = decode(encoded(image, quality=95, subsampling=0), 96)
    assert found == size
    assert pixels.shape == (96, 96, 3)
    shown = np.asarray(image.convert("RGB").resize((96, 96), Image.Resampling.BICUBIC), float)
    assert np.abs(pixels - shown).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("size", [(60, 80), (500, 700), (30, 9000)])
def test_other_formats(kind: str, size: tuple[int, int]) -> None:
    image = picture(*size)
    pixels, found = decode(encoded(image, kind, lossless=True), 96)
    assert found == size
    shown = np.asarray(image.resize((96, 96), Image.Resampling.BICUBIC), float)
    assert np.abs(pixels - shown).mean() < 1


def test_a_line_of_very_many_pixels_is_soon_done() -> None:
    pixels, size = decode(encoded(picture(4, 2_000_000), "PNG"), 96)
    assert size == (4, 2_000_000)
    assert pixels.shape == (96, 96, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_file_that_ends_early_is_refused(kind: str) -> None:
    data = encoded(picture(200, 200), kind)
    with pytest.raises(ValueError, match=r"."):
        decode(data[: len(data) // 2], 96)


def test_what_is_no_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff\xd9",
        b"text" * 100,
        encoded(picture(9, 9), "BMP"),
    ):
        with pytest.raises(ValueError, match=r"."):
            decode(data, 96)
    monkeypatch.setattr(decoded, "PIXEL_LIMIT", 10_000)
    for kind in ("JPEG", "PNG"):
        with pytest.raises(ValueError, match="200 x 100 pixels"):
            decode(encoded(picture(100, 200), kind), 96)
