"""Image bytes to the image bytes that a shard holds: resized, encoded again, faces blurred.

A pure function of bytes and settings, for `curation.sandbox`: hostile bytes may crash a decoder.
What becomes of orientation, alpha, CMYK, 16 bits and animation stands in `curation.decode`;
colour profiles are dropped, as its readers never see them.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from curation.decode import Pixels, decode, decode_jpeg, read_orientation, turn
from curation.headers import FORMATS, Header, read_header
from curation.outcomes import (
    BAD_BOXES,
    DECODE_FAILED,
    EXTREME_ASPECT,
    NOT_AN_IMAGE,
    TOO_MANY_PIXELS,
    TOO_SMALL,
    UNSUPPORTED_FORMAT,
)
from curation.resample import Box, blur, resample, shrink
from curation.resize_settings import ResizeSettings

CODE = 1  # raised when the same bytes and settings give other bytes

QUALITY = {"jpg": 95, "webp": 95, "png": 6}
LARGEST_SIDE = {"jpg": 65_500, "webp": 16_383, "png": 2**31 - 1}  # pixels; the formats' own limits

# How many pixels each way a JPEG decoded at 1/8, 1/4 or 1/2 must have left for each new pixel.
# Against full decode and area averages, photographs then stay above 40 dB of PSNR
# (measured on 14 files: at worst 40.4, 40.6 and 41.0; in the median 42, 44 and 53).
REDUCED = {8: 3, 4: 3, 2: 2}


class Transformed(NamedTuple):
    """What became of an image: `data`, or the `reason` why not (a word of curation.outcomes).

    Sizes in pixels; the original's are upright, or as its header gives them where it is refused.
    """

    data: bytes | None
    format: str | None
    width: int | None
    height: int | None
    original_width: int | None
    original_height: int | None
    reason: str | None


@dataclass(frozen=True)
class Layout:
    """Sizes (width, height): of the whole picture when scaled, and of what is made of it."""

    scaled: tuple[int, int]
    final: tuple[int, int]


def layout(width: int, height: int, settings: ResizeSettings) -> Layout:
    """The sizes an upright picture gets."""
    whole = (width, height)
    if settings.mode == "no" or settings.size is None:
        return Layout(whole, whole)
    size = settings.size
    side = min(whole) if settings.mode in ("keep_ratio", "center_crop") else max(whole)
    if settings.only_if_bigger and side <= size:
        return Layout(whole, whole)
    scaled = (max(1, round(width * (size / side))), max(1, round(height * (size / side))))
    return Layout(scaled, (size, size) if settings.mode in ("center_crop", "border") else scaled)


def transform(
    data: bytes, settings: ResizeSettings, boxes: Sequence[Sequence[float]] | None = None
) -> Transformed:
    """The bytes of an image as `settings` want them, with the faces in `boxes` blurred.

    boxes: [x0, y0, x1, y1] in 0..1 of the upright picture. A JPEG that becomes much smaller is
    decoded at 1/2, 1/4 or 1/8, at least 40 dB of PSNR from full decode on photographs (REDUCED).
    """
    header = read_header(data)
    if header.format not in FORMATS:
        return _refused(header, UNSUPPORTED_FORMAT if header.format else NOT_AN_IMAGE)
    faces = _faces(boxes)
    if faces is None:
        return _refused(header, BAD_BOXES)
    reason = _limits(header.width, header.height, settings)
    if reason is not None:
        return _refused(header, reason)
    orientation = read_orientation(data)
    if not faces and orientation == 1 and _fits(header, settings):
        return _kept(data, header, settings)
    pixels, size, reason = _scaled(data, header, orientation, settings)
    if pixels is None or reason is not None:
        return _refused(header, reason or DECODE_FAILED)
    pixels = _framed(blur(pixels, faces) if faces else pixels, layout(*size, settings).final)
    height, width, _ = pixels.shape
    return Transformed(_encode(pixels, settings), settings.format, width, height, *size, None)


def _refused(header: Header, reason: str) -> Transformed:
    return Transformed(None, header.format, None, None, header.width, header.height, reason)


def _faces(boxes: Any) -> list[Box] | None:
    """The boxes as numbers; None where one is no box, so that a face would stay."""
    try:
        faces = [(float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in boxes or ()]
    except (TypeError, ValueError):
        return None
    # Detectors place corners a little outside; far outside, they are pixels and no shares.
    return faces if all(-1 <= edge <= 2 for face in faces for edge in face) else None


def _limits(width: int | None, height: int | None, settings: ResizeSettings) -> str | None:
    if width is None or height is None:
        return None
    if width * height > settings.max_pixels:
        return TOO_MANY_PIXELS
    if min(width, height) < settings.min_size:
        return TOO_SMALL
    if max(width, height) > settings.max_aspect * min(width, height):
        return EXTREME_ASPECT
    made = layout(width, height, settings)
    too_many = max(math.prod(made.scaled), math.prod(made.final)) > settings.max_pixels
    return TOO_MANY_PIXELS if too_many or max(made.final) > LARGEST_SIDE[settings.format] else None


def _fits(header: Header, settings: ResizeSettings) -> bool:
    """Whether an upright image may keep its bytes."""
    if not settings.skip_reencode or header.format != settings.format:
        return False
    if header.width is None or header.height is None:
        return False
    size = (header.width, header.height)
    return layout(*size, settings) == Layout(size, size)


def _kept(data: bytes, header: Header, settings: ResizeSettings) -> Transformed:
    reason = None
    if settings.verify and _jpeg(data, header, (header.width or 1, header.height or 1)) is None:
        reason = decode(data, settings.max_pixels)[1]
    if reason is not None:
        return _refused(header, reason)
    size = (header.width, header.height)
    return Transformed(data, header.format, *size, *size, None)


def _scaled(
    data: bytes, header: Header, orientation: int, settings: ResizeSettings
) -> tuple[Pixels | None, tuple[int, int], str | None]:
    """The whole picture upright and scaled, the size it had before that, and why there is none."""
    if header.width is not None and header.height is not None:
        size = _flipped((header.width, header.height), orientation)
        target = _flipped(layout(*size, settings).scaled, orientation)
        pixels = _jpeg(data, header, target)
        if pixels is not None:
            return turn(pixels, orientation), size, None
    pixels, reason = decode(data, settings.max_pixels)
    if pixels is None:
        return None, (0, 0), reason
    size = (pixels.shape[1], pixels.shape[0])
    reason = _limits(*size, settings)  # a header may have named another size, or none
    if reason is not None:
        return None, size, reason
    return resample(pixels, *layout(*size, settings).scaled), size, None


def _flipped(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """A size as stored -> upright, or back: orientations 5 to 8 lie on their side."""
    return (size[1], size[0]) if orientation >= 5 else size


def _jpeg(data: bytes, header: Header, target: tuple[int, int]) -> Pixels | None:
    """A sound, ordinary JPEG as stored -> RGB of the size `target`; None for any other."""
    if header.width is None or header.height is None:
        return None
    size = (header.width, header.height)
    cell = _cell(size, target)
    pixels = decode_jpeg(data, header, cell)
    if pixels is None:
        return None
    return resample(pixels, *target) if cell == 1 else shrink(pixels, size, target, cell)


def _cell(size: tuple[int, int], target: tuple[int, int]) -> int:
    """1, or at what part of its size a JPEG may be decoded: 2 for a half, 4 or 8."""
    for cell, left in REDUCED.items():
        if all(side >= cell * left * new for side, new in zip(size, target, strict=True)):
            return cell
    return 1


def _framed(pixels: Pixels, final: tuple[int, int]) -> Pixels:
    """The middle of a picture, or the picture in the middle of white."""
    height, width, _ = pixels.shape
    if (width, height) == final:
        return pixels
    if width >= final[0] and height >= final[1]:
        x, y = (width - final[0]) // 2, (height - final[1]) // 2
        return np.ascontiguousarray(pixels[y : y + final[1], x : x + final[0]])
    framed = np.full((final[1], final[0], 3), 255, np.uint8)
    x, y = (final[0] - width) // 2, (final[1] - height) // 2
    framed[y : y + height, x : x + width] = pixels
    return framed


def _encode(pixels: Pixels, settings: ResizeSettings) -> bytes:
    quality = QUALITY[settings.format] if settings.quality is None else settings.quality
    if settings.format == "jpg":
        return simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling="420")
    buffer = io.BytesIO()
    if settings.format == "png":
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=quality)
    else:
        Image.fromarray(pixels).save(buffer, "WEBP", quality=quality)
    return buffer.getvalue()
