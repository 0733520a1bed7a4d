"""A dozen common corruptions of images, after the list of Hendrycks & Dietterich (2019).

Each takes an image, uint8 RGB [height, width, 3], a severity from 1 to 5 and a random generator,
and gives an image of the same size; the same generator gives the same image. Written anew: figures
are comparable among themselves, not with published ones on ImageNet-C. Lengths are of an image
with a shorter side of `SIDE`, and shrink with it. Left out of their list: glass blur and snow, and
frost, which needs their photographs.
"""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, signal
from skimage import color

SIDE = 224  # pixels of the shorter side that lengths are given for
Pixels = NDArray[np.float64]  # [height, width, 3], 0 to 1


def corrupt(
    image: NDArray[np.uint8], name: str, severity: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The image with one of `CORRUPTIONS`, reduced first where its shorter side exceeds `SIDE`."""
    image = reduce(image)
    found = CORRUPTIONS[name](image.astype(np.float64) / 255, severity - 1, rng)
    return np.rint(np.clip(found, 0, 1) * 255).astype(np.uint8)


def reduce(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scaled to a shorter side of `SIDE`; a smaller image stays as it is."""
    height, width = image.shape[:2]
    share = SIDE / min(height, width)
    if share >= 1:
        return image
    size = max(SIDE, round(width * share)), max(SIDE, round(height * share))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def gaussian_noise(image: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    return image + rng.normal(0, (0.08, 0.12, 0.18, 0.26, 0.38)[level], image.shape)


def shot_noise(image: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Counted photons, fewer with severity."""
    photons = (60, 25, 12, 5, 3)[level]
    return rng.poisson(image * photons) / photons


def impulse_noise(image: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Values that are black or white, of each colour for itself."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    drawn = rng.random(image.shape)
    return np.where(drawn < share / 2, 0.0, np.where(drawn > 1 - share / 2, 1.0, image))


def defocus_blur(image: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """A disc, its edge antialiased."""
    radius = (3, 4, 6, 8, 10)[level] * _scale(image)
    reach = int(np.ceil(radius + 0.5))
    side = 2 * reach + 1
    fine = (np.arange(8 * side) + 0.5) / 8 - side / 2  # centres of 8 x 8 parts of each pixel
    radius = max(radius, 0.1)  # at least the four parts in the middle
    inside = (np.hypot(fine[:, None], fine) <= radius).astype(np.float64)
    return _filter(image, inside.reshape(side, 8, side, 8).mean(axis=(1, 3)))


def motion_blur(image: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """A line of random direction."""
    length = (8, 12, 18, 26, 34)[level] * _scale(image)
    angle = rng.uniform(0, np.pi)
    reach = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for along in np.linspace(-length / 2, length / 2, 8 * reach + 1):
        y, x = reach + along * np.sin(angle), reach + along * np.cos(angle)
        row, column = int(y), int(x)
        down, right = y - row, x - column
        kernel[row, column] += (1 - down) * (1 - right)
        kernel[row + 1, column] += down * (1 - right)
        kernel[row, column + 1] += (1 - down) * right
        kernel[row + 1, column + 1] += down * right
    return _filter(image, kernel)


def zoom_blur(image: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """The mean of the image at growing scales, as of a lens that zooms while it exposes."""
    largest = (1.10, 1.15, 1.20, 1.26, 1.32)[level]
    height, width = image.shape[:2]
    picture, layers = _picture(image), []
    for zoom in np.linspace(1, largest, 11):
        across, down = width * (1 - 1 / zoom) / 2, height * (1 - 1 / zoom) / 2
        box = (across, down, width - across, height - down)
        layers.append(picture.resize((width, height), Image.Resampling.BILINEAR, box))
    return np.mean([np.asarray(layer) for layer in layers], axis=0) / 255


def fog(image: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Clouds, the sum of noise at every scale, laid over the image; its range stays."""
    amount, decay = (1.5, 2.0, 2.5, 2.5, 3.0)[level], (2.0, 2.0, 1.7, 1.5, 1.4)[level]
    clouds, weight = np.zeros(image.shape[:2]), 1.0
    cells = 2
    while cells <= max(image.shape):
        coarse = rng.random((cells + 1, cells + 1))
        places = np.meshgrid(
            *(np.linspace(0, cells, side) for side in image.shape[:2]), indexing="ij"
        )
        clouds += weight * ndimage.map_coordinates(coarse, places, order=1)
        cells, weight = cells * 2, weight / decay
    clouds = (clouds - clouds.min()) / max(float(np.ptp(clouds)), 1e-9)
    top = float(image.max())
    return (image + amount * clouds[..., None]) * top / (top + amount)


def brightness(image: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    hsv = color.rgb2hsv(image)
    hsv[..., 2] = np.clip(hsv[..., 2] + (0.1, 0.2, 0.3, 0.4, 0.5)[level], 0, 1)
    return color.hsv2rgb(hsv)


def contrast(image: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    mean = image.mean(axis=(0, 1))
    return (image - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + mean


def elastic_transform(image: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    """Every pixel moved, near ones together (Simard et al. 2003)."""
    scale = _scale(image)
    shift = (2.0, 3.0, 4.0, 5.0, 6.5)[level] * scale  # root mean square, each way
    moved = []
    for axis in np.meshgrid(*(np.arange(side) for side in image.shape[:2]), indexing="ij"):
        smooth = ndimage.gaussian_filter(rng.normal(size=axis.shape), 7 * scale, mode="reflect")
        moved.append(axis + shift * smooth / max(float(smooth.std()), 1e-9))
    planes = [
        ndimage.map_coordinates(image[..., plane], moved, order=1, mode="reflect")
        for plane in range(3)
    ]
    return np.stack(planes, axis=-1)


def pixelate(image: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[level]
    height, width = image.shape[:2]
    size = max(1, round(width * share)), max(1, round(height * share))
    small = _picture(image).resize(size, Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST)) / 255.0


def jpeg_compression(image: Pixels, level: int, rng: np.random.Generator) -> Pixels:
    buffer = io.BytesIO()
    _picture(image).save(buffer, "JPEG", quality=(25, 18, 15, 10, 7)[level])
    with Image.open(buffer) as found:
        return np.asarray(found.convert("RGB")) / 255.0


Corrupt = Callable[[Pixels, int, np.random.Generator], Pixels]
CORRUPTIONS: dict[str, Corrupt] = {
    function.__name__: function
    for function in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        defocus_blur,
        motion_blur,
        zoom_blur,
        fog,
        brightness,
        contrast,
        elastic_transform,
        pixelate,
        jpeg_compression,
    )
}


def _picture(image: Pixels) -> Image.Image:
    return Image.fromarray(np.rint(image * 255).astype(np.uint8))


def _scale(image: Pixels) -> float:
    return min(image.shape[:2]) / SIDE


def _filter(image: Pixels, kernel: NDArray[np.float64]) -> Pixels:
    """Each colour with a kernel of odd sides, scaled to sum to 1; edges are mirrored."""
    reach = len(kernel) // 2
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), "symmetric")
    weights = (kernel / kernel.sum())[..., None]
    return signal.fftconvolve(padded, weights, mode="valid", axes=(0, 1))
