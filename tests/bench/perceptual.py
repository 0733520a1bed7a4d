"""Near-duplicates by perceptual hash: recall and precision on re-encodes, resizes and crops.

Photographs of scikit-image and scikit-learn are cut into tiles that do not overlap, and CIFAR-10
pictures are added where they are at hand; of each three variants are made. The copies of one
picture are to be found, and nothing else. CIFAR-10 itself holds near-duplicates (Barz and
Denzler 2020, arXiv:1902.00423), so that its precision is a lower bound, and it stands apart.

Run: python tests/bench/perceptual.py [CIFAR-10 Parquet: jpg]
"""

import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from record import keep

from curation.perceptual import dhash, phash
from curation.rules_settings import DedupSettings
from curation.scores.pixels import descriptor
from flows.demo.photos import PHOTOS, load
from indexes.hamming import hamming_pairs
from indexes.neighbours import range_pairs

SIDE = 96  # pixels of a tile, and of an upscaled CIFAR-10 picture
STRUCTURE = 4.0  # grey levels: the least deviation of a tile's 8 x 8 block means
CIFAR = 12_000
RADII = (4, 6, 8, 10, 12)
KINDS = ("original", "recode", "resize", "crop")
LADDER = DedupSettings()

Picture = Image.Image


def encoded(image: Picture, quality: int) -> Picture:
    """The image after JPEG compression."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def tiles() -> Iterator[Picture]:
    """Parts of the photographs that share no pixel and are not one plain surface."""
    for name in PHOTOS:
        photo = load(name)
        for top in range(0, photo.height - SIDE + 1, SIDE):
            for left in range(0, photo.width - SIDE + 1, SIDE):
                tile = photo.crop((left, top, left + SIDE, top + SIDE))
                blocks = tile.convert("L").resize((8, 8), Image.Resampling.BOX)
                if np.asarray(blocks, float).std() >= STRUCTURE:
                    yield tile


def cifar(path: Path, count: int) -> Iterator[Picture]:
    table = pq.read_table(path, columns=["jpg"]).slice(0, count)
    for data in table["jpg"].to_pylist():
        small = Image.open(io.BytesIO(data)).convert("RGB")
        yield small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def variants(image: Picture, rng: np.random.Generator) -> list[Picture]:
    """The picture as published (quality 90), re-encoded at 30 to 95, resized by 0.5 to 2, and
    cropped by up to 2 % of each side."""
    published = encoded(image, 90)
    side = round(SIDE * rng.uniform(0.5, 2))
    resized = published.resize((side, side), Image.Resampling.BICUBIC)
    cut = rng.uniform(0, 0.02, 2) * SIDE
    left, top = cut * rng.random(2)
    box = (left, top, left + SIDE - cut[0], top + SIDE - cut[1])
    cropped = published.resize((SIDE - 2, SIDE - 2), Image.Resampling.BICUBIC, box=box)
    return [
        published,
        encoded(image, int(rng.integers(30, 96))),
        encoded(resized, int(rng.integers(60, 96))),
        encoded(cropped, 90),
    ]


def measure(images: list[Picture], copied: int) -> dict[str, Any]:
    """Figures of all ways to find the copies of the first `copied` images."""
    rng = np.random.default_rng(0)
    pictures: list[Picture] = []
    source: list[int] = []
    kinds: list[int] = []
    for number, image in enumerate(images):
        made = variants(image, rng) if number < copied else [encoded(image, 90)]
        pictures += made
        source += [number] * len(made)
        kinds += range(len(made))
    grey = [picture.convert("L") for picture in pictures]
    start = time.process_time()
    hashes = np.stack([phash(grey), dhash(grey)], axis=1)
    seconds = time.process_time() - start
    vectors = np.stack([descriptor(np.asarray(picture)) for picture in pictures])
    truth = Truth(np.array(source), np.array(kinds))
    figures: dict[str, Any] = {
        "pictures": len(pictures),
        "planted_pairs": truth.planted,
        "cpu_microseconds_per_picture": round(seconds / len(pictures) * 1e6, 1),
    }
    for name, columns in (("phash", hashes[:, :1]), ("phash_and_dhash", hashes)):
        found = {radius: hamming_pairs(columns, radius) for radius in RADII}
        figures[name] = {str(radius): truth.judge(*pairs[:2]) for radius, pairs in found.items()}
    near = [range_pairs(vectors.astype(np.float16), each.threshold) for each in LADDER.near]
    close = hamming_pairs(hashes, LADDER.radius)
    a, b = (np.concatenate([pairs[end] for pairs in (close, *near)]) for end in (0, 1))
    figures["near_alone"] = truth.judge(*near[0][:2])
    figures["ladder"] = truth.judge(a, b)
    return figures


class Truth:
    """Which picture each was made from, and how."""

    def __init__(self, source: np.ndarray, kinds: np.ndarray) -> None:
        self.source, self.kinds = source, kinds
        sizes = np.bincount(source)
        self.planted = int((sizes * (sizes - 1) // 2).sum())
        self._variants = np.bincount(kinds, minlength=len(KINDS))

    def judge(self, a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
        """Recall of all pairs made from one picture, and of those with its original by kind."""
        a, b = np.unique(np.stack([a, b]), axis=1)
        right = self.source[a] == self.source[b]
        of_original = self.kinds[b[right & (self.kinds[a] == 0)]]
        by_kind = np.bincount(of_original, minlength=len(KINDS)) / np.maximum(self._variants, 1)
        return {
            "recall": round(float(right.sum() / self.planted), 4),
            "precision": round(float(right.mean()), 4) if len(a) else None,
            "other_pairs": int((~right).sum()),
            "recall_by_kind": dict(zip(KINDS[1:], by_kind[1:].round(4).tolist(), strict=True)),
        }


def main() -> None:
    photographs = list(tiles())
    report: dict[str, Any] = {
        "default_radius": LADDER.radius,
        "photographs": measure(photographs, len(photographs)),
    }
    for path in map(Path, sys.argv[1:]):
        report["cifar10"] = measure(list(cifar(path, CIFAR)), CIFAR // 10)
    keep("perceptual", report, "numpy", "numba", "pillow", "scikit-image", "scikit-learn")


if __name__ == "__main__":
    main()
