import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from curation.headers import Header, has_end, read_header

KINDS = [
    ("JPEG", {"quality": 80}, "jpg"),
    ("JPEG", {"progressive": True}, "jpg"),
    ("PNG", {}, "png"),
    ("WEBP", {}, "webp"),
    ("WEBP", {"lossless": True}, "webp"),
]


def encode(
    kind: str, width: int = 37, height: int = 23, mode: str = "RGB", **options: object
) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "options", "name"), KINDS)
def test_size_and_format_by_content(kind: str, options: dict[str, object], name: str) -> None:
    data = encode(kind, **options)
    assert read_header(data) == Header(name, 37, 23)
    assert has_end(data)


def test_webp_with_alpha_names_its_canvas() -> None:
    data = encode("WEBP", mode="RGBA")
    assert read_header(data) == Header("webp", 37, 23)


def test_jpeg_size_after_large_segments() -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 60000
    assert read_header(encode("JPEG", exif=exif, icc_profile=bytes(30000))).width == 37


def test_a_thumbnail_in_exif_is_not_the_picture() -> None:
    thumbnail = encode("JPEG", 8, 8)
    data = encode("JPEG", exif=b"Exif\0\0" + thumbnail)
    assert read_header(data) == Header("jpg", 37, 23)
    assert not has_end(data[:-2])


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"GIF89a" + bytes(20), "gif"),
        (b"BM" + bytes(20), "bmp"),
        (b"II*\0" + bytes(20), "tif"),
        (b"\0\0\0\x1cftypavif" + bytes(20), "avif"),
        (b"\0\0\0\x1cftypheic" + bytes(20), "heic"),
        (b"<svg xmlns=", None),
        (b"<!DOCTYPE html>", None),
        (b"", None),
    ],
)
def test_what_is_no_image_of_ours(data: bytes, name: str | None) -> None:
    assert read_header(data) == Header(name)


def test_a_size_no_column_holds_is_no_size() -> None:
    data = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + b"\xff" * 8
    assert read_header(data) == Header("png")


@pytest.mark.parametrize(("kind", "options", "name"), KINDS)
def test_a_file_cut_anywhere_has_no_end(kind: str, options: dict[str, object], name: str) -> None:
    data = encode(kind, **options)
    assert not any(has_end(data[:length]) for length in range(len(data)))


@given(
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8X"]),
    st.binary(max_size=64),
)
def test_no_bytes_raise(start: bytes, rest: bytes) -> None:
    header = read_header(start + rest)
    assert header.pixels >= 0
    assert has_end(start + rest) in (True, False)
