"""Image bytes to RGB pixels, whatever the bytes: an error is a value here, not an exception.

Animations give their first frame; alpha is laid on white; 16 bits are cut to 8; CMYK, palettes
and grey become RGB; the EXIF orientation is applied.
"""

import io
import warnings
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from curation.headers import FORMATS, Header, has_end, has_metadata, read_header

PIXEL_LIMIT = 2**26  # 67 million pixels, 200 MB of RGB: more is refused before decoding
CODE = 1  # raised when the same bytes give other pixels

TRUNCATED = "truncated"
FAILED = "decode_failed"
TOO_LARGE = "too_many_pixels"

FORMATS_READ = ("JPEG", "PNG", "WEBP")  # Pillow's names; no other decoder sees the bytes

Pixels = npt.NDArray[np.uint8]


class Decoded(NamedTuple):
    """pixels, or the error why there are none; orientation: the EXIF one that was applied."""

    pixels: Pixels | None
    error: str | None
    orientation: int = 1


_ORIENTATION = 0x0112  # EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, pixel_limit: int = PIXEL_LIMIT) -> tuple[Pixels | None, str | None]:
    """JPEG, PNG or WebP bytes -> (uint8 RGB [height, width, 3], None), or (None, error).

    error: "truncated" (the file ends before its pixels do), "too_many_pixels" (its header
    names more than `pixel_limit`; nothing was decoded), or "decode_failed".
    """
    decoded = decode_upright(data, pixel_limit)
    return decoded.pixels, decoded.error


def decode_upright(data: bytes, pixel_limit: int = PIXEL_LIMIT) -> Decoded:
    """As `decode`, with the orientation that was applied.

    Ordinary JPEGs go straight to libjpeg-turbo, which Pillow calls too: the pixels are the same
    where both were built with one version of it, and within 3 levels of another's. All that it
    warns of goes to Pillow, so that what counts as damage is one decoder's word.
    """
    header = read_header(data)
    if header.pixels > pixel_limit:
        return Decoded(None, TOO_LARGE)
    pixels = decode_jpeg(data, header)
    if pixels is not None:
        orientation = read_orientation(data)
        return Decoded(turn(pixels, orientation), None, orientation)
    try:
        with warnings.catch_warnings(action="ignore"):
            decoded = _decoded(data, pixel_limit)
    except Image.DecompressionBombError:
        return Decoded(None, TOO_LARGE)
    except Exception as error:  # decoders raise of every kind on hostile bytes
        return Decoded(None, TRUNCATED if _ends_early(data, error) else FAILED)
    if decoded.pixels is not None and not has_end(data):
        return Decoded(None, TRUNCATED)
    return decoded


def decode_jpeg(data: bytes, header: Header, cell: int = 1) -> Pixels | None:
    """A sound JPEG of 8 bits in YCbCr or grey -> RGB as stored, at 1 / `cell` of its size.

    header: of `data`. None for all else: another format or colour space, damage, an early end.
    """
    if header.format != "jpg" or header.width is None or header.height is None:
        return None
    height, width = -(-header.height // cell), -(-header.width // cell)
    try:
        # With these two bytes last, a file that ends early or holds no scan is warned of below.
        if not (data.endswith(b"\xff\xd9") or has_end(data)):
            return None
        if simplejpeg.decode_jpeg_header(data)[2] not in ("YCbCr", "Gray"):
            return None
        pixels = simplejpeg.decode_jpeg(
            data, "RGB", min_height=height, min_width=width, min_factor=cell
        )
    except ValueError:  # libjpeg warned
        return None
    return pixels if pixels.shape == (height, width, 3) else None


def read_orientation(data: bytes) -> int:
    """The EXIF orientation that `decode` applies, 1 to 8; 1 (upright) where there is none.

    Only a PNG with metadata is decoded for it: they may stand behind its pixels.
    """
    if not has_metadata(data):
        return 1
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(data), formats=FORMATS_READ) as image,
        ):
            return _orientation(image)
    except Exception:  # no image, says `decode`
        return 1


def turn(pixels: Pixels, orientation: int) -> Pixels:
    """RGB as stored -> RGB upright."""
    if orientation == 1:
        return pixels
    return np.asarray(Image.fromarray(pixels).transpose(_TURNS[orientation]))


def _decoded(data: bytes, pixel_limit: int) -> Decoded:
    with Image.open(io.BytesIO(data), formats=FORMATS_READ) as image:
        if image.width * image.height > pixel_limit:
            return Decoded(None, TOO_LARGE)
        image.load()
        orientation = _orientation(image)
        upright = image if orientation == 1 else image.transpose(_TURNS[orientation])
        return Decoded(np.asarray(_rgb(upright)), None, orientation)


def _ends_early(data: bytes, error: Exception) -> bool:
    if "truncated" in str(error).lower():
        return True
    return read_header(data).format in FORMATS and not has_end(data)


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF says nothing of the pixels
        return 1
    return orientation if isinstance(orientation, int) and orientation in _TURNS else 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16 bits of grey, which convert() would clip
        values = np.asarray(image) >> 8
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, layer).convert("RGB")
    return image.convert("RGB")
