"""Hashes of pictures: of their pixels, and two perceptual ones. Light to import."""

import hashlib
import struct
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from curation.decode import Pixels

SIDE = 32  # pixels of the picture that pHash sees
LOW = 8  # frequencies of each direction that are kept

Hashes = npt.NDArray[np.uint64]


def pixel_sha256(image: Pixels) -> str:
    """The same for pictures of equal size and pixels, whatever file format held them."""
    sha256 = hashlib.sha256(struct.pack("<2I", *image.shape[:2]))
    sha256.update(np.ascontiguousarray(image).data)
    return sha256.hexdigest()


def phash(grey: Sequence[Image.Image]) -> Hashes:
    """DCT hashes, uint64 [n]: signs of 64 low frequencies against their median.

    After Zauner 2010, "Implementation and benchmarking of perceptual image hash functions".
    """
    return phash_of(_reduced(grey, SIDE, SIDE))


def dhash(grey: Sequence[Image.Image]) -> Hashes:
    """Gradient hashes, uint64 [n]: whether each of 8 by 8 cells is darker than its right one."""
    return dhash_of(_reduced(grey, LOW + 1, LOW))


def phash_of(small: Pixels) -> Hashes:
    """`phash` of pictures that are small already: grey uint8 [n, SIDE, SIDE]."""
    basis = _cosines()
    frequencies = (basis @ small.astype(np.float64) @ basis.T).reshape(len(small), LOW * LOW)
    # Flat pictures have only rounding left here: it must not turn into bits.
    frequencies = frequencies.round(3)
    middle = np.median(frequencies, axis=1, keepdims=True) if len(small) else frequencies[:, :1]
    return _packed(frequencies > middle)


def dhash_of(small: Pixels) -> Hashes:
    """`dhash` of pictures that are small already: grey uint8 [n, LOW, LOW + 1]."""
    return _packed((small[:, :, 1:] > small[:, :, :-1]).reshape(len(small), LOW * LOW))


def _reduced(grey: Sequence[Image.Image], width: int, height: int) -> Pixels:
    """uint8 [n, height, width]; each cell is the mean of the area it covers.

    Rows before columns, in two steps: Pillow 13 turns them round for tall pictures, and what is
    rounded between them would then depend on its version.
    """
    small = np.empty((len(grey), height, width), np.uint8)
    for index, image in enumerate(grey):
        narrow = image.resize((width, image.height), Image.Resampling.BOX)
        small[index] = np.asarray(narrow.resize((width, height), Image.Resampling.BOX))
    return small


@cache
def _cosines() -> npt.NDArray[np.float64]:
    """The frequencies 1..8 of the DCT-II, [LOW, SIDE]; the mean is left out."""
    angles = np.outer(np.arange(1, LOW + 1), 2 * np.arange(SIDE) + 1) * np.pi / (2 * SIDE)
    return np.cos(angles)


def _packed(bits: npt.NDArray[np.bool_]) -> Hashes:
    """bool [n, 64] -> uint64 [n], the first bit highest."""
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64).reshape(-1)
