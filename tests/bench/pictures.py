"""Tars of pictures made on the spot, as large to decode as photographs, and of captions."""

import io
import os
import tarfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from train import ingest

CORES = len(os.sched_getaffinity(0))
SIDES = 320, 400  # pixels of a side of the pictures
WORDS = ["red", "old", "small", "bright", "river", "stone", "house", "bird", "tree", "night"]


def picture(number: int) -> bytes:
    """A JPEG of smooth shapes, finer and fainter ones on them, and grain."""
    rng = np.random.default_rng(number)
    width, height = (int(side) for side in rng.integers(SIDES[0], SIDES[1] + 1, 2))
    pixels = np.zeros((height, width, 3), np.float32)
    for cells, weight in ((4, 0.6), (16, 0.25), (64, 0.15)):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        pixels += weight * np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
    pixels += rng.integers(-8, 9, (height, width, 1), dtype=np.int8)
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
    return out.getvalue()


def write_tar(path: Path, number: int, count: int) -> None:
    """Pictures and captions, of ten words each."""
    rng = np.random.default_rng([number, 1])
    with tarfile.open(path, "w") as tar:
        for place in range(number * count, (number + 1) * count):
            caption = " ".join([*rng.choice(WORDS, 9).tolist(), str(place)])
            for ending, data in (("jpg", picture(place)), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{place:08d}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def make_data(folder: Path, tars: int, count: int) -> tuple[str, dict[str, Any]]:
    """The URL of a dataset version of new tars, and what they hold."""
    paths = [folder / f"{number:05d}.tar" for number in range(tars)]
    with ProcessPoolExecutor(CORES) as pool:
        list(pool.map(write_tar, paths, range(tars), [count] * tars))
    size = sum(path.stat().st_size for path in paths)
    told = {"images": tars * count, "sides": SIDES, "mb": round(size / 1e6), "tars": tars}
    return ingest(folder / "store", paths), told
