"""Pictures of a few rows, read out of their shards, and pictures that users ask with."""

import base64
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from infra import filesystem
from infra.dataset import index_id, read_images, shard_and_row
from infra.errors import SluiceError

EDGE = 128  # pixels, the longer side of a thumbnail
PIXEL_LIMIT = 2**26
FORMATS = ("JPEG", "PNG", "WEBP")

Pixels = npt.NDArray[np.uint8]


def originals(dataset_url: str, ids: Sequence[int]) -> dict[int, bytes]:
    """The original image bytes of index ids; an id whose shard holds no picture is left out."""
    shards: dict[int, list[int]] = {}
    for identifier in ids:
        shard, row = shard_and_row(identifier)
        shards.setdefault(shard, []).append(row)
    return {
        index_id(shard, row): image
        for shard, rows in shards.items()
        for row, image in read_images(dataset_url, shard, rows).items()
    }


def decode(data: bytes, name: str) -> Image.Image:
    """JPEG, PNG or WebP bytes -> upright RGB, alpha on white; SluiceError names `name`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > PIXEL_LIMIT:
            raise SluiceError(
                f"{name} has {image.width} x {image.height} pixels, more than {PIXEL_LIMIT}",
                "make it smaller",
            )
        return to_rgb(ImageOps.exif_transpose(image))
    except SluiceError:
        raise
    except Exception as error:  # decoders raise of every kind on hostile bytes
        raise SluiceError(
            f"{name} is no picture that can be read: {error}", "give a whole JPEG, PNG or WebP"
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as RGB; transparency is laid on white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, layer).convert("RGB")
    return image.convert("RGB")


def query_pixels(image: "str | Path | Image.Image | npt.NDArray[Any]") -> Pixels:
    """A file's path, a PIL image or an RGB array [height, width, 3] -> uint8 RGB array."""
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise SluiceError(
                f"the query is an array of {image.dtype} {image.shape}",
                "give a picture as uint8 RGB [height, width, 3], or a vector as one dimension",
            )
        return image
    if isinstance(image, Image.Image):
        return np.asarray(to_rgb(image))
    path = str(image)
    if not filesystem.exists(path):
        raise SluiceError(f"no picture at {path}", "check the path; a text needs no image=")
    return np.asarray(decode(filesystem.read_bytes(path), path))


def thumbnail(data: bytes, edge: int = EDGE) -> str | None:
    """Image bytes -> a data URI of at most `edge` pixels a side; None where they do not decode."""
    try:
        image = decode(data, "")
    except SluiceError:
        return None
    image.thumbnail((edge, edge))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
