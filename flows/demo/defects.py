"""The planted defects, each a pure function of an image (or its bytes) and a generator."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

JPEG = "jpg"
PNG = "png"

ERROR_PAGE = """<!DOCTYPE html>
<html><head><title>403 Forbidden</title></head>
<body><h1>Forbidden</h1><p>Hotlinking is not allowed. Request {request}.</p></body></html>
"""


def encode(image: Image.Image, extension: str, quality: int = 90) -> bytes:
    """The image as JPEG of that quality, or as PNG."""
    buffer = io.BytesIO()
    if extension == PNG:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def decodes(data: bytes) -> bool:
    """Whether an image decodes whole."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):  # Pillow's own family of errors
        return False
    return True


def corrupt(data: bytes, rng: np.random.Generator) -> bytes:
    """A file cut short, one with its head overwritten, or a web page under an image's name."""
    kind = rng.random()
    if kind < 0.15:
        return ERROR_PAGE.format(request=rng.bytes(8).hex()).encode()
    if kind < 0.30:
        start = int(rng.integers(2, 12))
        return data[:start] + rng.bytes(160) + data[start + 160 :]
    # Rows that are missing at the end are forgiven by some decoders: cut well before it.
    return data[: int(len(data) * rng.uniform(0.35, 0.75))]


def blank(rng: np.random.Generator) -> Image.Image:
    """One plain colour, or the grey "no image" placeholder of a web shop."""
    size = (int(rng.integers(64, 129)), int(rng.integers(64, 129)))
    colour = tuple(int(value) for value in rng.integers(0, 256, 3))
    if rng.random() < 0.6:
        return Image.new("RGB", size, colour)
    grey = int(rng.integers(225, 250))
    image = Image.new("RGB", size, (grey, grey, grey))
    line = grey - int(rng.integers(40, 80))
    draw = ImageDraw.Draw(image)
    wide, high = (int(edge * rng.uniform(0.2, 0.32)) for edge in size)
    left, top = (
        int((edge - part) * rng.uniform(0.2, 0.8))
        for edge, part in zip(size, (wide, high), strict=True)
    )
    draw.rectangle((left, top, left + wide, top + high), outline=(line, line, line))
    draw.line((left, top, left + wide, top + high), fill=(line, line, line))
    return image


def too_small(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A thumbnail: shorter side 12 to 30 pixels."""
    factor = int(rng.integers(12, 31)) / min(image.size)
    wide, high = (max(12, int(edge * factor)) for edge in image.size)
    return image.resize((wide, high), Image.Resampling.LANCZOS)


def extreme_aspect(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A banner: a strip of the image, 4.5 to 7 times as long as wide, 64 to 80 pixels wide."""
    ratio = rng.uniform(4.5, 7.0)
    narrow = int(rng.integers(64, 81))
    wide, high = image.size
    if rng.random() < 0.5:
        top = int(rng.uniform(0, high - wide / ratio))
        strip = (0, top, wide, top + wide / ratio)
        return image.resize((int(narrow * ratio), narrow), Image.Resampling.BICUBIC, box=strip)
    left = int(rng.uniform(0, wide - high / ratio))
    strip = (left, 0, left + high / ratio, high)
    return image.resize((narrow, int(narrow * ratio)), Image.Resampling.BICUBIC, box=strip)


def near_duplicate(image: Image.Image, rng: np.random.Generator) -> bytes:
    """One to three of: resized, cropped by up to 4 % in all, brightened; always re-encoded."""
    changes = rng.permutation(3)[: rng.integers(0, 4)]
    if 0 in changes:
        wide, high = image.size
        cut = rng.uniform(0.01, 0.04, 2)
        place = rng.random(2)
        left, top = wide * cut[0] * place[0], high * cut[1] * place[1]
        box = (left, top, left + wide * (1 - cut[0]), top + high * (1 - cut[1]))
        size = (round(box[2] - box[0]), round(box[3] - box[1]))
        image = image.resize(size, Image.Resampling.BICUBIC, box=box)
    if 1 in changes:
        factor = rng.uniform(max(0.7, 56 / min(image.size)), 1.3)
        size = (round(image.width * factor), round(image.height * factor))
        image = image.resize(size, Image.Resampling.BICUBIC)
    if 2 in changes:
        image = ImageEnhance.Brightness(image).enhance(rng.uniform(1.08, 1.25))
    return encode(image, JPEG, int(rng.integers(55, 84)))


def copy(image: Image.Image, rng: np.random.Generator) -> bytes:
    """What a mirror serves: the same picture re-encoded, half the time at another size."""
    if rng.random() < 0.5:
        factor = rng.uniform(max(0.7, 56 / min(image.size)), 1.3)
        size = (round(image.width * factor), round(image.height * factor))
        image = image.resize(size, Image.Resampling.BICUBIC)
    return encode(image, JPEG, int(rng.integers(60, 90)))
