import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from curation import decode as module
from curation.decode import FAILED, TOO_LARGE, TRUNCATED, decode, decode_jpeg, decode_upright
from curation.headers import read_header


def picture(width: int = 24, height: int = 16) -> Image.Image:
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - across], axis=2).astype(np.uint8))


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels_of(data: bytes) -> np.ndarray:
    pixels, error = decode(data)
    assert error is None
    assert pixels is not None
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    return pixels.astype(int)


def test_lossless_pixels_come_back() -> None:
    assert np.array_equal(pixels_of(encode(picture())), np.asarray(picture()))
    webp = encode(picture(), "WEBP", lossless=True)
    assert np.array_equal(pixels_of(webp), np.asarray(picture()))


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = picture().convert(mode)
    data = encode(image, "JPEG", quality=95) if mode == "CMYK" else encode(image)
    assert np.abs(pixels_of(data) - np.asarray(image.convert("RGB")).astype(int)).mean() < 3


def test_alpha_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    half = Image.new("RGBA", (4, 4), (200, 0, 0, 128))
    assert (pixels_of(encode(clear)) == 255).all()
    assert np.abs(pixels_of(encode(half))[0, 0] - [227, 127, 127]).max() <= 1
    assert (pixels_of(encode(clear.convert("LA"))) == 255).all()


def test_transparent_palette_colour_is_laid_on_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30] + [0] * 765)
    assert (pixels_of(encode(image, transparency=0)) == 255).all()
    assert (pixels_of(encode(image))[0, 0] == [10, 20, 30]).all()


def test_sixteen_bits_are_cut_to_eight() -> None:
    grey = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16) + 255
    assert np.array_equal(pixels_of(encode(Image.fromarray(grey)))[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.asarray(picture())
    turns = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, -1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright),
    }
    assert np.array_equal(pixels_of(encode(picture(), exif=exif)), turns[orientation])


def test_damaged_exif_does_not_cost_the_picture() -> None:
    data = encode(picture(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert pixels_of(data).shape == (16, 24, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_file_cut_short_is_truncated(kind: str) -> None:
    data = encode(picture(64, 64), kind)
    for length in (len(data) - 1, len(data) - 9, len(data) // 2, 40):
        assert decode(data[:length]) == (None, TRUNCATED)


def test_a_header_alone_is_never_decoded_when_it_names_too_many_pixels() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    size = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    assert decode(bomb) == (None, TOO_LARGE)
    assert decode(encode(picture(20, 20)), pixel_limit=399) == (None, TOO_LARGE)
    assert decode(encode(picture(20, 20)), pixel_limit=400)[1] is None


@pytest.mark.parametrize("data", [b"", b"no image", b"GIF89a" + bytes(30), b"%!PS-Adobe"])
def test_other_bytes_fail(data: bytes) -> None:
    pixels, error = decode(data)
    assert pixels is None
    assert error in (FAILED, TRUNCATED)


@settings(deadline=None)
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP"]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=20),
    st.floats(0, 1),
)
def test_mutated_images_give_pixels_or_an_error(
    kind: str, changes: list[tuple[float, int]], cut: float
) -> None:
    data = bytearray(encode(picture(), kind))
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    pixels, error = decode(bytes(data[: max(1, int(cut * 2 * len(data)))]))
    assert (pixels is None) != (error is None)
    assert error in (None, FAILED, TRUNCATED, TOO_LARGE)


def by_pillow(data: bytes, monkeypatch: pytest.MonkeyPatch) -> module.Decoded:
    with monkeypatch.context() as patch:
        patch.setattr(module, "decode_jpeg", lambda *_: None)
        return decode_upright(data)


def alike(first: module.Decoded, second: module.Decoded) -> bool:
    if first.pixels is None or second.pixels is None:
        return first == second
    near = np.abs(first.pixels.astype(int) - second.pixels).max() <= 3
    return bool(near) and first[1:] == second[1:] and first.pixels.shape == second.pixels.shape


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (17, 31), (200, 90)], ids=str)
def test_jpegs_are_as_pillow_decodes_them(
    subsampling: int, progressive: bool, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"quality": 80, "subsampling": subsampling, "progressive": progressive}
    for mode in ("RGB", "L"):
        data = encode(picture(*size).convert(mode), "JPEG", **options)
        assert decode_jpeg(data, read_header(data)) is not None
        assert alike(decode_upright(data), by_pillow(data, monkeypatch))


def test_odd_jpegs_are_left_to_pillow() -> None:
    plain = encode(picture(64, 64), "JPEG")
    cut, noisy = plain[: len(plain) // 2], plain[:-2] + b"more\xff\xd9"
    adobe = encode(picture(), "JPEG", keep_rgb=True)
    for data in (encode(picture().convert("CMYK"), "JPEG"), adobe, cut, noisy):
        assert decode_jpeg(data, read_header(data)) is None


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4), st.floats(0.1, 2))
def test_damage_is_what_pillow_says(
    monkeypatch: pytest.MonkeyPatch, changes: list[tuple[float, int]], cut: float
) -> None:
    data = bytearray(encode(picture(48, 40), "JPEG"))
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    damaged = bytes(data[: int(cut * len(data))])
    assert alike(decode_upright(damaged), by_pillow(damaged, monkeypatch))
