"""One MAE step against a step of the same transformer on all its tokens, on this processor.

The full step is a forward and backward pass of the encoder on every patch with the mean square of
its output as loss, and the same optimizer; it has no decoder at all. Turns alternate, and each pair
gives one ratio, so that what else the machine does falls on both. One thread, whose processor time
is taken: threads that wait for each other on a busy machine would be measured otherwise.

Run: python tests/bench/mae_step.py
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from record import keep
from torch import Tensor

from pretrain.data import Batch
from pretrain.loop import deterministic
from pretrain.objectives import build
from pretrain.optimizers import make_optimizer
from pretrain.settings import TrainSettings

THREADS, SHARE = 1, 0.75
CASES: dict[str, dict[str, Any]] = {
    "default": {"batch": 128, "pairs": 11},
    "vit_small": {"model": "vit_small_patch16_224", "image_size": 224, "batch": 8, "pairs": 11},
}
Step = Callable[[], None]


def noise(count: int, side: int) -> Batch:
    """Pictures of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    places = np.arange(count)
    sizes = np.full((count, 2), side, np.float32)
    return Batch(pixels, sizes, [""] * count, places, places * 0, places, {})


def steps(settings: TrainSettings) -> tuple[Step, Step]:
    """The MAE step and the full one; each has its own weights."""
    device = torch.device("cpu")
    mae, other = build(settings).train(), build(settings).train()
    views = mae.views(noise(settings.batch, settings.image_size), device)

    def made(objective: Any, loss: Callable[[], Tensor]) -> Step:
        objective.to(memory_format=torch.channels_last)
        optimizer = make_optimizer(objective, settings)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            loss().backward()
            optimizer.step()

        return step

    whole = other.model
    return (
        made(mae, lambda: mae(views, 0.0)[0]),
        made(other, lambda: whole.forward_features(views["images"]).square().mean()),
    )


def seconds(step: Step) -> float:
    """Processor time of one step."""
    start = time.process_time()
    step()
    return time.process_time() - start


def measure(pairs: int, **changes: Any) -> dict[str, Any]:
    options = {"mask_ratio": SHARE}
    settings = TrainSettings.model_validate(
        {"objective": "mae", "device": "cpu", "threads": THREADS, "options": options, **changes}
    )
    with deterministic(THREADS):
        masked, full = steps(settings)
        for step in (masked, full):
            step()
        times = [(seconds(masked), seconds(full)) for _ in range(pairs)]
    ratios = sorted(round(whole / part, 2) for part, whole in times)
    return {
        "model": settings.model,
        "model_kwargs": settings.model_kwargs,
        "image_size": settings.image_size,
        "batch": settings.batch,
        "mae_cpu_seconds": round(median(part for part, _ in times), 4),
        "full_cpu_seconds": round(median(whole for _, whole in times), 4),
        "ratio": median(ratios),
        "ratios": ratios,
    }


def main() -> None:
    figures = {name: measure(**case) for name, case in CASES.items()}
    keep("mae_step", {"mask_ratio": SHARE, "threads": THREADS, **figures}, "torch", "timm")


if __name__ == "__main__":
    main()
