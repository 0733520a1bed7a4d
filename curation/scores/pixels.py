"""A near-duplicate descriptor of an image's pixels: no model.

Low-frequency cosine coefficients of brightness and colour, as in perceptual hashing (pHash;
Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions"), kept as
real numbers so that nearness is graded. Re-encoding, resizing, a change of brightness and a
crop of a few per cent leave the cosine of two descriptors above 0.9; different pictures of the
same kind stay below it (measured in tests/bench/near_duplicates.py).
"""

import functools

import numpy as np
import numpy.typing as npt
from PIL import Image

GRID = 20  # pixels a side the image is averaged down to, whatever its aspect
FREQUENCY = 10.0  # the highest radial frequency kept, half periods per image
WHITENING = 0.5  # coefficients are weighted by frequency to this power; images fall off as 1/f
POWER = 0.7  # signed power after normalisation, so that one strong edge does not decide
FLAT = 1.0  # grey levels of contrast under which an image has no descriptor

Array = npt.NDArray[np.float32]


@functools.lru_cache(maxsize=1)
def _basis() -> tuple[Array, Array, npt.NDArray[np.intp]]:
    """Cosine basis [n, GRID], weights [n, n] and the flat positions of the kept frequencies."""
    count = int(FREQUENCY) + 1
    frequency = np.arange(count)
    basis = np.sqrt(2 / GRID) * np.cos(np.pi / GRID * np.outer(frequency, np.arange(GRID) + 0.5))
    basis[0] /= np.sqrt(2)
    radius = np.hypot(frequency[:, None], frequency[None])
    kept = np.flatnonzero((radius > 0) & (radius <= FREQUENCY))
    return basis.astype(np.float32), (radius**WHITENING).astype(np.float32), kept


def dimension() -> int:
    """Length of a descriptor."""
    return 3 * len(_basis()[2])


def grid(image: npt.NDArray[np.uint8]) -> Image.Image:
    """RGB uint8 [height, width, 3], averaged down to GRID by GRID pixels.

    Blocks of whole pixels first, then bilinear from three pixels or more to one: what Pillow's
    resize does with a `reducing_gap` of 3, without the copy of all pixels that it makes.
    """
    from curation.scores import kernels, reductions

    height, width, _ = image.shape
    tall, wide = (max(int(side / GRID / 3.0), 1) for side in (height, width))
    if tall > 1 or wide > 1:
        small = np.empty((-(-height // tall), -(-width // wide), 3), np.uint8)
        reductions.shrink(kernels.flat(image), width, tall, wide, small)
        image = small
    box = (0, 0, width / wide, height / tall)
    return Image.fromarray(image).resize((GRID, GRID), Image.Resampling.BILINEAR, box)


def descriptor(image: npt.NDArray[np.uint8]) -> Array:
    """The descriptor of an image: RGB uint8 [height, width, 3] -> float32 [dimension()].

    A unit vector; all zeros where the image is flat (one colour), so that it is near nothing.
    """
    small = grid(image)
    planes = np.moveaxis(np.asarray(small.convert("YCbCr"), np.float32), 2, 0)
    basis, weights, kept = _basis()
    waves = basis @ planes @ basis.T
    values = waves.reshape(3, -1)[:, kept]
    if np.linalg.norm(values) < FLAT * GRID:
        return np.zeros(dimension(), np.float32)
    values = (values * weights.ravel()[kept]).ravel()
    values = values / np.linalg.norm(values)
    values = np.sign(values) * np.abs(values) ** POWER
    return (values / np.linalg.norm(values)).astype(np.float32)
