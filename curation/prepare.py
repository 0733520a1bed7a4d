"""What the child process does to one image. Light to import."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from curation.decode import decode
from curation.perceptual import phash
from curation.resize import transform
from curation.resize_settings import ResizeSettings

Boxes: TypeAlias = Sequence[Sequence[float]]
Made: TypeAlias = tuple[tuple[Any, ...] | None, int | None]  # only what the sandbox lets out


def prepare_all(
    items: Sequence[tuple[bytes, Boxes | None]], settings: ResizeSettings | None, hashed: bool
) -> list[Made]:
    """`prepare` for several images with their face boxes."""
    return [prepare(data, boxes, settings, hashed) for data, boxes in items]


def prepare(
    data: bytes, boxes: Boxes | None, settings: ResizeSettings | None, hashed: bool
) -> Made:
    """What `settings` make of an image, and its perceptual hash where it is to be `hashed`.

    The first are the fields of a Transformed, None where there are no settings; its data is None
    where the bytes stay as they are: they need not come back. The second is None for what cannot
    be decoded.
    """
    made = transform(data, settings, boxes) if settings else None
    if made is not None and made.data is data:
        made = made._replace(data=None)
    return tuple(made) if made else None, _phash(data) if hashed else None


def _phash(data: bytes) -> int | None:
    pixels, _ = decode(data)
    if pixels is None:
        return None
    grey = Image.fromarray(np.ascontiguousarray(pixels)).convert("L")
    return int(phash([grey])[0])
