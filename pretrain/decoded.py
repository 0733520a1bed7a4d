"""Decoded images, as training takes them, and those that are kept between epochs."""

import io
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

PIXEL_LIMIT = 2**26  # a larger image is refused before it is decoded
FORMATS = ("JPEG", "PNG", "WEBP")


def decode(data: bytes, canvas: int) -> tuple[np.ndarray, tuple[int, int]]:
    """RGB uint8 [canvas, canvas, 3] and the original (height, width); raises ValueError."""
    pixels, size = _jpeg(data, canvas) or _any(data, canvas)
    return _fitted(pixels, canvas), size


def squeezed(pixels: np.ndarray, canvas: int) -> np.ndarray:
    """An RGB image uint8 [height, width, 3] as `decode` gives it from a file without loss."""
    return _fitted(_reduced(Image.fromarray(pixels), canvas), canvas)


def _fitted(pixels: np.ndarray, canvas: int) -> np.ndarray:
    from pretrain.resample import squeeze  # PyTorch is imported when it is first needed

    return pixels if pixels.shape[:2] == (canvas, canvas) else squeeze(pixels, canvas)


def _reduced(image: Image.Image, canvas: int) -> np.ndarray:
    """To no less than twice the canvas: what is left to do is then bounded."""
    across, down = (max(side // (2 * canvas), 1) for side in image.size)
    return np.asarray(image.reduce((across, down)))


def _jpeg(data: bytes, canvas: int) -> tuple[np.ndarray, tuple[int, int]] | None:
    """An ordinary JPEG at the smallest of libjpeg's scales, in eighths, that fills the canvas.

    None for what it warns of, and for all else: Pillow knows, or says what is wrong.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    try:
        header: Any = simplejpeg.decode_jpeg_header(data)
        height, width, space, _ = header
        if space not in ("YCbCr", "Gray") or height * width > PIXEL_LIMIT:
            return None
        pixels = simplejpeg.decode_jpeg(
            data, "RGB", min_height=min(canvas, height), min_width=min(canvas, width)
        )
        return pixels, (height, width)
    except ValueError:
        return None


def _any(data: bytes, canvas: int) -> tuple[np.ndarray, tuple[int, int]]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if not 0 < width * height <= PIXEL_LIMIT:
                raise ValueError(f"{width} x {height} pixels")
            image.draft("RGB", (canvas, canvas))  # JPEG: decode at a reduced scale
            return _reduced(image.convert("RGB"), canvas), (height, width)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error


class Decoded:
    """Decoded samples kept between epochs, the least recently used leaving first."""

    def __init__(self, mib: int, canvas: int) -> None:
        self._room = mib * 2**20 // (canvas * canvas * 3)
        self._canvas = canvas
        self._held: OrderedDict[tuple[int, int], Any] = OrderedDict()

    def get(self, key: tuple[int, int], pixels: Callable[[int], Any]) -> Any:
        """(pixels, size), or None where there are none: `pixels` gives them for a canvas."""
        found = self._held.get(key, self)
        if found is self:
            try:
                found = pixels(self._canvas)
            except ValueError:
                found = None
        return found

    def keep(self, key: tuple[int, int], value: Any) -> None:
        self._held[key] = value
        self._held.move_to_end(key)
        while len(self._held) > self._room:
            self._held.popitem(last=False)
