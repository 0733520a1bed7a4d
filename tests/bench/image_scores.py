"""Image statistics with both perceptual hashes, against the bare decode rate of JPEG decoders.

A dataset version of JPEGs of 384 pixels is made on the spot: smooth noise, and photographs. Ours
is all of a score stage but its commit: tar to columns on disk. The decoders get the images' bytes
from memory and do nothing else. One core, CPU seconds, all in turns in one process; the most of
several turns, since a busy neighbour only takes away. Claimed: 0.5 of the fastest decoder for
image statistics with pHash and dHash; SHA-256 of the pixels is on top of what was claimed.
Run: python tests/bench/image_scores.py
"""

import io
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import numpy as np
import simplejpeg
from PIL import Image
from record import keep
from skimage import data

from curation.ingest import IngestWork, ingest_draft, ingest_items
from curation.score import ScoreWork
from curation.scores import hash as hashes
from curation.scores.registry import REGISTRY
from curation.settings import SourceSettings
from infra.shards import TarWriter, read_tar

SAMPLES, TURNS, SIDE, QUALITY = 300, 9, 384, 90
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
SETS: Mapping[str, tuple[str, ...]] = {
    "image": ("image",),
    "image_hash": ("image", "hash"),
    "image_hash_descriptor": ("image", "hash", "descriptor"),
}


def pictures(kind: str) -> list[Image.Image]:
    """SAMPLES pictures: of noise, or windows of photographs enlarged to SIDE."""
    rng = np.random.default_rng(0)
    if kind == "noise":
        coarse = rng.integers(0, 256, (SAMPLES, SIDE // 6, SIDE // 6, 3), np.uint8)
        return [Image.fromarray(each).resize((SIDE, SIDE)) for each in coarse]
    photographs = [Image.fromarray(getattr(data, name)()).convert("RGB") for name in PHOTOGRAPHS]
    found = []
    for index in range(SAMPLES):
        photograph = photographs[index % len(photographs)]
        side = int(min(photograph.size) * rng.uniform(0.7, 1))
        x, y = (int(rng.integers(0, length - side + 1)) for length in photograph.size)
        found.append(photograph.resize((SIDE, SIDE), box=(x, y, x + side, y + side)))
    return found


def make(folder: Path, kind: str) -> tuple[str, list[bytes]]:
    """A dataset version, and the bytes of its images."""
    path = folder / "00000.tar"
    with path.open("wb") as file:
        tar = TarWriter(file)
        for index, picture in enumerate(pictures(kind)):
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=QUALITY)
            tar.add(f"{index:09d}.jpg", buffer.getvalue())
            tar.add(f"{index:09d}.txt", b"a picture")
        tar.close()
    sources = [SourceSettings(tars=str(path))]
    draft = ingest_draft(str(folder / "store"), "pool", sources, kind)
    [item] = ingest_items(sources)
    IngestWork(draft.url)(item.value, [""])
    with path.open("rb") as file:
        return draft.url, [sample.members["jpg"] for sample in read_tar(file)]


def decoders() -> dict[str, Callable[[bytes], object]]:
    """One image's bytes to RGB, by every decoder that is installed."""
    found: dict[str, Callable[[bytes], object]] = {
        "pillow": lambda each: np.asarray(Image.open(io.BytesIO(each)).convert("RGB")),
        "simplejpeg": lambda each: simplejpeg.decode_jpeg(each, "RGB"),
    }
    if find_spec("torchvision"):
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg

        torch.set_num_threads(1)
        found["torchvision"] = lambda each: decode_jpeg(
            torch.frombuffer(bytearray(each), dtype=torch.uint8), ImageReadMode.RGB
        )
    if find_spec("cv2"):
        import cv2

        cv2.setNumThreads(1)
        found["opencv"] = lambda each: cv2.imdecode(np.frombuffer(each, np.uint8), cv2.IMREAD_COLOR)
    return found


@dataclass(frozen=True)
class Scoring:
    """A score stage's work on the one shard; without the pixels' SHA-256 if asked for."""

    url: str
    names: tuple[str, ...]
    sha256: bool

    def __call__(self) -> None:
        work = ScoreWork(self.url, {name: REGISTRY[name]() for name in self.names})
        if self.sha256:
            work(0, list(self.names))
            return
        with mock.patch.object(hashes, "pixel_sha256", lambda _: "0" * 64):
            work(0, list(self.names))


def rates(functions: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """The most samples a CPU second over the turns, in each of which all run once."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(TURNS):
        for name, function in functions.items():
            start = time.process_time()
            function()
            found[name].append(SAMPLES / (time.process_time() - start))
    return {name: max(each) for name, each in found.items()}


def drain(decode: Callable[[bytes], object], images: list[bytes]) -> None:
    for image in images:
        decode(image)


def measure(folder: Path, kind: str) -> dict[str, object]:
    url, images = make(folder, kind)

    def each(decode: Callable[[bytes], object]) -> Callable[[], object]:
        return lambda: drain(decode, images)

    bare = {f"decode_{name}": each(decode) for name, decode in decoders().items()}
    ours: dict[str, Callable[[], object]] = {}
    for name, scorers in SETS.items():
        ours[name] = Scoring(url, scorers, True)
        if "hash" in scorers:
            ours[f"{name}_without_sha256"] = Scoring(url, scorers, False)
    found = rates({**bare, **ours})
    fastest = max(bare, key=lambda name: found[name])
    return {
        "bytes_per_image": round(sum(map(len, images)) / len(images)),
        "rates": {name: round(rate, 1) for name, rate in found.items()},
        "fastest": fastest,
        "of_the_fastest": {name: round(found[name] / found[fastest], 3) for name in ours},
    }


def main() -> None:
    found = {}
    for kind in ("noise", "photographs"):
        with tempfile.TemporaryDirectory() as folder:
            found[kind] = measure(Path(folder), kind)
    report = {
        "what": "images per CPU second on one core",
        "sizes": {"samples": SAMPLES, "side": SIDE, "quality": QUALITY, "turns": TURNS},
        **found,
    }
    keep("image_scores", report, "numpy", "numba", "pillow", "simplejpeg", "torchvision")


if __name__ == "__main__":
    main()
