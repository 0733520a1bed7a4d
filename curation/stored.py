"""What an image file's bytes say of how it was stored; nothing is decoded.

Layouts: JPEG by ITU-T T.81 annex B, PNG by the W3C's third edition, WebP by RFC 9649.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from curation.headers import read_header, segments

_TABLES, _LUMINANCE = 0xDB, 0
# Luminance quantisation of T.81 table K.1, in the zigzag order of the files.
_BASE = np.array(
    [
        16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40,
        26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61, 60, 57, 51,
        56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87,
        95, 98, 103, 104, 103, 62, 77, 113, 121, 112, 100, 120, 92, 101, 103, 99,
    ],
    np.int64,
)  # fmt: skip


class Stored(NamedTuple):
    """orientation: EXIF, 1 to 8. quality: of a JPEG, 1 to 100. animated: more than one frame."""

    orientation: int
    quality: int | None
    animated: bool


def read_stored(data: bytes, orientation: int) -> Stored:
    """How a file was stored. orientation: the one that decoding found."""
    kind = read_header(data).format
    quality = _jpeg_quality(data) if kind == "jpg" else None
    animated = kind == "webp" and data[12:16] == b"VP8X" and bool(data[20] & 2)
    return Stored(orientation, quality, animated or (kind == "png" and _is_apng(data)))


def _jpeg_quality(data: bytes) -> int | None:
    for marker, at in segments(data):
        if marker == _TABLES:
            found = _luminance(data[at + 4 : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")])
            if found is not None:
                return found
    return None


@lru_cache(maxsize=1024)
def _luminance(segment: bytes) -> int | None:
    """The quality of table 0 of a segment of quantisation tables, if it holds one."""
    at = 0
    while at < len(segment):
        wide, number = segment[at] >> 4, segment[at] & 15
        size = 128 if wide else 64
        table = np.frombuffer(segment[at + 1 : at + 1 + size], ">u2" if wide else "u1")
        if number == _LUMINANCE and len(table) == 64:
            return nearest_quality(table.astype(np.int64))
        at += 1 + size
    return None


def nearest_quality(table: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
    """The quality, 1 to 100, whose luminance table is nearest to int64 [64] in zigzag order.

    The scaling is the Independent JPEG Group's; nearest by the sum of absolute differences, the
    higher quality of two.
    """
    quality = np.arange(100, 0, -1)
    percent = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    tables = ((_BASE * percent[:, None] + 50) // 100).clip(1, 255)
    return int(quality[np.abs(tables - table).sum(axis=1).argmin()])


def _is_apng(data: bytes) -> bool:
    """Whether a PNG's animation control stands before its pixels, as it must."""
    at = 8
    while at + 8 <= len(data):
        if data[at + 4 : at + 8] in (b"acTL", b"IDAT"):
            return data[at + 4 : at + 8] == b"acTL"
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return False
