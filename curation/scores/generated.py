"""Generated-image score: how an image's finest detail differs from that of a photograph."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.decode import Pixels
from curation.score import Batch, Scores, filled
from curation.units import WORSE, column
from infra.digests import digest

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
TILE = 32  # pixels a side
TILES = 6  # a side of the image, at most
RINGS = 22  # radial frequencies 1..22 of a tile, in cycles per 32 pixels
LOW, MIDDLE, HIGH = slice(0, 4), slice(1, 16), slice(11, RINGS)
NOISE = 1.0  # grey levels squared: what is below is rounding, not detail
FLAT = 0.5  # grey levels between neighbours on average, below which there is nothing to see
PERIODS = ((16, 0), (0, 16), (16, 16), (8, 0), (0, 8), (8, 8))  # (row, column) of the spectrum
HEAD = Path(__file__).with_name("generated.json")
NAMES = {  # of the columns, with their units
    "slope": "log power over log frequency",
    "high_frequency": "decades",
    "grid": "decades",
    "texture_gap": "decades",
    "score": "probability",
}

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GeneratedScorer:
    """Columns, all float32; null for images that cannot be decoded, have a side under 32 pixels
    or are flat:

    slope             of log power over log frequency; photographs have some -2 (1/f amplitude)
    high_frequency    decades of power at the finest detail against the coarsest; upsampling
                      leaves a generator's images short of it, or with too much of it
    grid              decades by which power at a period of 2 or 4 pixels stands out of what is
                      around it: the chequerboard of transposed convolutions
    texture_gap       high_frequency of the tiles richest in texture less that of the poorest
    score             0..1, a logistic head over the spectrum, the gap's spectrum and the grid

    The azimuthal average of the power spectrum is that of Durall et al. 2020 (arXiv:2003.01826),
    rich and poor tiles are told as in PatchCraft (Zhong et al. 2023, arXiv:2311.12397); both over
    at most 36 tiles of 32 x 32 pixels as stored, because any resize wipes out what is looked for.

    The head was fit to photographs and to what was made of them offline by decoders, upsampling
    and fractals (tests/bench/generated.py, where its AUROC stands for generators it has not
    seen; enlarging by repeating pixels it tells only because it has seen it). It knows no
    diffusion model, and a photograph enlarged twofold is generated to it: use it to look for
    candidates, and choose a threshold on data of your own.
    """

    name: str

    code = 1
    reads_images = True
    reads_vectors = ()
    vectors = ()
    columns = pa.schema(
        [
            column(name, pa.float32(), units, WORSE if name == "score" else None)
            for name, units in NAMES.items()
        ]
    )

    def settings(self) -> Mapping[str, Any]:
        weight, bias = load_head()
        return {"kind": "generated", "head": digest([weight.tolist(), bias])}

    def score(self, batch: Batch) -> Scores:
        positions, images = batch.decoded()
        values = np.array([statistics(image) for image in images], np.float32)
        values = values.reshape(-1, len(NAMES))
        columns = {
            name: filled(len(batch), positions, values[:, index], pa.float32())
            for index, name in enumerate(NAMES)
        }
        return Scores(pa.table(columns))


def statistics(image: Pixels) -> tuple[float, ...]:
    """uint8 RGB [height, width, 3] -> the values of NAMES, NaN where there are none."""
    values = features(image)
    if values is None:
        return (np.nan,) * len(NAMES)
    spectrum, gap, grid = np.split(values, [RINGS, 2 * RINGS])
    weight, bias = load_head()
    frequency = np.log10(np.arange(1, RINGS + 1)[MIDDLE])
    frequency -= frequency.mean()
    slope = frequency @ spectrum[MIDDLE] / (frequency @ frequency)
    logit = float(values @ weight) + bias
    return (
        float(slope),
        float(spectrum[HIGH].mean()),
        float(grid.max()),
        float(gap[HIGH].mean()),
        float(0.5 * (1 + np.tanh(logit / 2))),
    )


def features(image: Pixels) -> Floats | None:
    """What the head sees, [48]: spectrum, spectrum of rich less poor tiles, grid; in decades.

    Both spectra are relative to their own lowest frequencies, so that contrast does not count.
    None where the image is too small or flat.
    """
    if min(image.shape[:2]) < TILE:
        return None
    luma = tiles(image) @ LUMA  # only of the tiles: an image may have many megapixels
    texture = diversity(luma)
    if texture.mean() < FLAT:
        return None
    window, rings = _constants()
    waves = np.fft.rfft2((luma - luma.mean(axis=(1, 2), keepdims=True)) * window, axes=(1, 2))
    power = (waves.real**2 + waves.imag**2) / TILE**2
    order = np.argsort(texture, kind="stable")
    share = max(len(order) // 3, 1)
    whole, poor, rich = (
        _decades(power[rows].mean(axis=0).ravel() @ rings)
        for rows in (order, order[:share], order[-share:])
    )
    return np.concatenate([whole, rich - poor, _grid(power.mean(axis=0))]).astype(np.float32)


def tiles(image: Pixels) -> Pixels:
    """At most 36 tiles [n, 32, 32, 3], spread evenly over the image."""
    starts = [
        np.linspace(0, side - TILE, min(-(-side // TILE), TILES)).astype(int)
        for side in image.shape[:2]
    ]
    return np.stack(
        [image[top : top + TILE, left : left + TILE] for top in starts[0] for left in starts[1]]
    )


def diversity(luma: Floats) -> Floats:
    """Mean difference between neighbours in four directions, of tiles [n, 32, 32]: [n]."""
    pairs = (
        (luma[:, :, 1:], luma[:, :, :-1]),
        (luma[:, 1:], luma[:, :-1]),
        (luma[:, 1:, 1:], luma[:, :-1, :-1]),
        (luma[:, 1:, :-1], luma[:, :-1, 1:]),
    )
    return np.mean([np.abs(one - other).mean(axis=(1, 2)) for one, other in pairs], axis=0)


def _decades(power: Floats) -> Floats:
    values = np.log10(power + NOISE)
    return values - values[LOW].mean()


def _grid(power: Floats) -> Floats:
    """How far power at periods of 2 and 4 pixels stands out; axes and diagonal of each, [4]."""
    half = TILE // 2
    found: list[float] = []
    for row, across in PERIODS:
        near = [
            power[(row + down) % TILE, half - abs(half - (across + right) % TILE)]
            for down, right in ((-3, 0), (3, 0), (0, -3), (0, 3))
        ]
        found.append(np.log10((power[row, across] + NOISE) / (np.mean(near) + NOISE)))
    axes = [max(found[0], found[1]), found[2], max(found[3], found[4]), found[5]]
    return np.array(axes, np.float32)


@lru_cache(maxsize=1)
def _constants() -> tuple[Floats, Floats]:
    """Hann window [32, 32]; the mean over rings as a matrix [32 * 17, RINGS]."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(TILE) + 0.5) / TILE)
    down = np.minimum(np.arange(TILE), TILE - np.arange(TILE))[:, None]
    across = np.arange(TILE // 2 + 1)[None]
    radius = np.round(np.hypot(down, across)).ravel()
    # Half of the plane is kept: what stands in it for two counts twice.
    twice = np.where((across > 0) & (across < TILE // 2), 2.0, 1.0) * np.ones_like(down)
    rings = (radius[:, None] == np.arange(1, RINGS + 1)) * twice.ravel()[:, None]
    return np.outer(window, window).astype(np.float32), (rings / rings.sum(axis=0)).astype(
        np.float32
    )


@lru_cache(maxsize=1)
def load_head() -> tuple[Floats, float]:
    """Weight [48] and bias of the logistic head."""
    head = json.loads(HEAD.read_text())
    return np.array(head["weight"], np.float32), float(head["bias"])
