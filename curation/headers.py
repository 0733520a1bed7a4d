"""What an image is, and how large, by its first bytes; nothing is decoded.

Layouts: JPEG by ITU-T T.81 annex B, PNG by RFC 2083, WebP by RFC 9649.
"""

from collections.abc import Iterator
from typing import NamedTuple

FORMATS = ("jpg", "png", "webp")  # what a dataset version may hold
LARGEST = 2**31 - 1  # pixels of a side; PNG allows no more, and a column holds no more

_PNG = b"\x89PNG\r\n\x1a\n"
_OTHERS = (
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
    (b"\0\0\0\x0cjP  ", "jp2"),
    (b"\xff\x0a", "jxl"),
    (b"\0\0\0\x0cJXL ", "jxl"),
)
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_END, _SCAN, _APP1 = 0xD9, 0xDA, 0xE1
_METADATA = (b"eXIf", b"exif", b"EXIF", b"XML:com.adobe.xmp", b"XMP ")  # PNG's and WebP's chunks
_NO_LENGTH = frozenset((0x01, *range(0xD0, 0xD8)))
_SPECIAL = _START_OF_FRAME | _NO_LENGTH | {_END, _SCAN, 0xFF}  # not just to be passed over


class Header(NamedTuple):
    """format: "jpg", "png", "webp", another image format's name, or None: no image.

    width, height: pixels as stored, before any EXIF orientation; None where they cannot be read.
    """

    format: str | None
    width: int | None = None
    height: int | None = None

    @property
    def pixels(self) -> int:
        return (self.width or 0) * (self.height or 0)


def read_header(data: bytes) -> Header:
    """The format and size of an image file's bytes; never raises."""
    if data.startswith(b"\xff\xd8\xff"):
        return _header("jpg", _jpeg_size(data))
    if data.startswith(_PNG):
        size = data[16:24] if data[12:16] == b"IHDR" else b""
        return _header("png", (_big(size[:4]), _big(size[4:])))
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _header("webp", _webp_size(data))
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis", b"heic", b"heix", b"mif1"):
        return Header("avif" if data[8:11] == b"avi" else "heic")
    return Header(next((name for magic, name in _OTHERS if data.startswith(magic)), None))


def _header(name: str, size: tuple[int, int]) -> Header:
    width, height = size
    if 0 < width <= LARGEST and 0 < height <= LARGEST:
        return Header(name, width, height)
    return Header(name)


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


def segments(data: bytes) -> Iterator[tuple[int, int]]:
    """The markers of a JPEG and where they stand, up to the first scan."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _NO_LENGTH:
            at += 2
        else:
            yield marker, at
            if marker in (_END, _SCAN):
                return
            at += 2 + max(_big(data[at + 2 : at + 4]), 2)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at, last = 2, len(data) - 9
    while at <= last and data[at] == 0xFF:  # as `segments`, which takes three times as long
        marker = data[at + 1]
        if marker not in _SPECIAL:
            length = data[at + 2] << 8 | data[at + 3]
            at += 2 + length if length > 2 else 4
        elif marker in _START_OF_FRAME:
            return data[at + 7] << 8 | data[at + 8], data[at + 5] << 8 | data[at + 6]
        elif marker == 0xFF:
            at += 1
        elif marker in _NO_LENGTH:
            at += 2
        else:
            break
    return 0, 0


def has_end(data: bytes) -> bool:
    """Whether an image file has the end its format asks for.

    Decoders fill in what is missing before it, and need not say so.
    """
    if data.startswith(b"\xff\xd8"):
        scan = next((at for marker, at in segments(data) if marker == _SCAN), len(data))
        if data.endswith(b"\xff\xd9") and scan + 2 < len(data):
            return True  # as nearly all do
        return data.find(b"\xff\xd9", scan) >= 0  # pixels never hold these two bytes
    if data.startswith(_PNG):
        return 0 <= data.rfind(b"IEND") <= len(data) - 8  # its checksum follows
    if data.startswith(b"RIFF"):
        return len(data) >= 8 + _little(data[4:8])
    return False


def has_metadata(data: bytes) -> bool:
    """Whether the file carries EXIF or XMP, which may say how to turn the picture."""
    if data.startswith(b"\xff\xd8"):
        return any(marker == _APP1 for marker, _ in segments(data))
    return any(name in data for name in _METADATA)


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return _little(data[26:28]) & 0x3FFF, _little(data[28:30]) & 0x3FFF
    if kind == b"VP8L" and len(data) >= 25 and data[20] == 0x2F:
        bits = _little(data[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X" and len(data) >= 30:
        return _little(data[24:27]) + 1, _little(data[27:30]) + 1
    return 0, 0
