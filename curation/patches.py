"""Patches of an image that are left out, and what stands in their place.

The last step of Dataset Quantization (Zhou et al. 2023, arXiv:2308.10524): of a grid of 14 x 14
patches the least important ones are dropped. The paper has a masked autoencoder paint them anew
before training; here they are filled with the mean colour around them, and nothing is painted.
"""

import io

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import simplejpeg
from PIL import Image

from curation.decode import Pixels, decode
from curation.stored import read_stored

GRID = 14  # patches a side
VECTOR = "importance"  # what a scorer of the kind `patches` calls its vectors
WEBP_QUALITY, JPEG_QUALITY = 80, 90  # of files that do not tell their own
COARSEST = 4  # 16 pixels: a patch may begin where a block of JPEG with half the colour begins

Bools = npt.NDArray[np.bool_]


def masks(importance: npt.NDArray[np.floating], keep: float) -> pa.Array:
    """Importance [n, patches] -> n masks: a bit for each patch, 1 for the share that is kept.

    Of equals the first stay. Null where nothing is known (all zero): then all patches stay.
    """
    count = max(round(keep * importance.shape[1]), 1)
    order = np.argsort(-importance.astype(np.float32), axis=1, kind="stable")[:, :count]
    kept = np.zeros(importance.shape, bool)
    np.put_along_axis(kept, order, True, axis=1)
    packed = [row.tobytes() for row in np.packbits(kept, axis=1)]
    return pa.array(packed, pa.binary(), mask=~importance.any(axis=1))


def unpack(mask: bytes) -> Bools:
    """A mask as bool [GRID, GRID], True for what is kept."""
    bits = np.unpackbits(np.frombuffer(mask, np.uint8), count=GRID * GRID)
    return bits.reshape(GRID, GRID).astype(bool)


def drop_patches(data: bytes, mask: bytes) -> bytes:
    """An image file with the patches that `mask` leaves out filled, in the same format.

    As it was, where it cannot be decoded, is animated, has fewer pixels than patches, or would
    not become smaller. A JPEG keeps its quality; the EXIF orientation is applied.
    """
    stored = read_stored(data, 1)
    pixels, _ = decode(data)
    if pixels is None or stored.animated or min(pixels.shape[:2]) < GRID:
        return data
    filled = fill(pixels, unpack(mask))
    kind = Image.open(io.BytesIO(data)).format
    if kind == "JPEG":
        quality = stored.quality or JPEG_QUALITY
        made = simplejpeg.encode_jpeg(filled, quality=quality, colorsubsampling="420")
    else:
        buffer = io.BytesIO()
        options = {"quality": WEBP_QUALITY} if kind == "WEBP" else {}
        Image.fromarray(filled).save(buffer, kind, **options)
        made = buffer.getvalue()
    return made if len(made) < len(data) else data


def fill(pixels: Pixels, kept: Bools) -> Pixels:
    """RGB [height, width, 3] with each dropped patch in the mean colour of those around it."""
    tops, lefts = (_edges(side) for side in pixels.shape[:2])
    sums = np.add.reduceat(pixels.astype(np.int64), tops[:-1], axis=0)
    sums = np.add.reduceat(sums, lefts[:-1], axis=1)
    areas = np.outer(np.diff(tops), np.diff(lefts))
    colours = _spread(sums / areas[:, :, None], kept)
    filled = pixels.copy()
    for row, column in np.argwhere(~kept).tolist():
        area = slice(*tops[row : row + 2]), slice(*lefts[column : column + 2])
        filled[area] = np.rint(colours[row, column])
    return filled


def _edges(side: int) -> npt.NDArray[np.int64]:
    """Where patches begin and the last one ends, [GRID + 1], on whole blocks where these fit."""
    unit = 1 << min(COARSEST, (side // GRID).bit_length() - 1)
    edges = np.rint(np.arange(GRID + 1) * side / GRID / unit).astype(np.int64) * unit
    edges[-1] = side
    return edges


def _spread(colours: npt.NDArray[np.float64], kept: Bools) -> npt.NDArray[np.float64]:
    """Colours [GRID, GRID, 3]: each dropped one the mean of those around it, from kept ones on."""
    known = np.pad(kept, 1).astype(np.float64)
    found = np.pad(np.where(kept[:, :, None], colours, 0.0), ((1, 1), (1, 1), (0, 0)))
    while not known[1:-1, 1:-1].all() and known.any():
        near = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        count = np.sum([np.roll(known, step, (0, 1)) for step in near], axis=0)
        total = np.sum([np.roll(found, step, (0, 1)) for step in near], axis=0)
        new = np.zeros_like(known, dtype=bool)
        new[1:-1, 1:-1] = ((known == 0) & (count > 0))[1:-1, 1:-1]
        found[new] = total[new] / count[new][:, None]
        known[new] = 1
    return found[1:-1, 1:-1]
