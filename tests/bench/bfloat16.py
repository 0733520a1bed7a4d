"""Products of bfloat16 against float32 on this processor: PyTorch's own, and ours.

Milliseconds, the least of the turns, with one thread: a product, a layer, a convolution, and the
step of the small CLIP of train.py, of which samples a second are told. `plain` is PyTorch's own
bfloat16, `widened` that of indexes/bfloat16.py, for a processor without instructions for it.

Run: python tests/bench/bfloat16.py
"""

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from record import keep
from torch.nn import functional
from train import TOWERS

from indexes.bfloat16 import Widened, native
from pretrain import objectives
from pretrain.data import Batch
from pretrain.settings import TrainSettings

SIDE, BATCH, TURNS = 512, 64, 4
WAYS: dict[str, tuple[torch.dtype, Callable[[], AbstractContextManager[Any]]]] = {
    "float32": (torch.float32, contextlib.nullcontext),
    "plain": (torch.bfloat16, contextlib.nullcontext),
    "widened": (torch.bfloat16, Widened),
}


def least(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds of the quickest turn of each way; turns alternate, and the first are none."""
    found: dict[str, list[float]] = {way: [] for way in works}
    for turn in range(TURNS + 1):
        for way, work in works.items():
            with WAYS[way][1]():
                begin = time.perf_counter()
                work()
                if turn:
                    found[way].append(time.perf_counter() - begin)
    return {way: round(1e3 * min(seconds), 2) for way, seconds in found.items()}


def products(kind: torch.dtype) -> dict[str, Callable[[], object]]:
    square = torch.randn(SIDE, SIDE, dtype=kind)
    images, taps = torch.randn(8, 32, 32, 32, dtype=kind), torch.randn(32, 32, 3, 3, dtype=kind)
    last = [each.contiguous(memory_format=torch.channels_last) for each in (images, taps)]
    return {
        f"matmul {SIDE}": lambda: square @ square,
        f"linear {SIDE}": lambda: functional.linear(square, square),
        "conv 3x3": lambda: functional.conv2d(images, taps, padding=1),
        "conv 3x3 channels last": lambda: functional.conv2d(*last, padding=1),
    }


def clip() -> Callable[[bool], None]:
    """A step of the small CLIP, forth and back; with or without autocast."""
    settings = TrainSettings(objective="clip", model=TOWERS, image_size=64, batch=BATCH, steps=10)
    side, rng = settings.canvas_size, np.random.default_rng(0)
    batch = Batch(
        images=rng.integers(0, 256, (BATCH, side, side, 3), dtype=np.uint8),
        sizes=np.full((BATCH, 2), side, np.float32),
        captions=[f"a photo of the number {place} on a table" for place in range(BATCH)],
        ids=np.arange(BATCH),
        sources=np.zeros(BATCH, np.int64),
        places=np.arange(BATCH),
        state={},
        texts=["{}"] * BATCH,
    )
    objective = objectives.build(settings).train()
    with torch.no_grad():
        views = objective.views(batch, torch.device("cpu"))

    def step(low: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=low, cache_enabled=False):
            loss, _ = objective(views, 0.5)
        loss.backward()

    return step


def main() -> None:
    torch.set_num_threads(1)
    step = clip()
    steps = {way: partial(step, kind is torch.bfloat16) for way, (kind, _) in WAYS.items()}
    rates = {way: round(1e3 * BATCH / took, 1) for way, took in least(steps).items()}
    with torch.no_grad():
        works = {way: products(kind) for way, (kind, _) in WAYS.items()}
        took = {
            name: least({way: work[name] for way, work in works.items()})
            for name in works["float32"]
        }
    told = {"native": native("cpu"), "capability": torch.backends.cpu.get_cpu_capability()}
    figures = {**told, "milliseconds": took, "clip_samples_s": rates}
    keep("bfloat16_native" if figures["native"] else "bfloat16", figures, "torch")


if __name__ == "__main__":
    main()
