"""Heads that others published: what their tensors are called, and what stands between them.

A state dict says nothing of activations, so only what is listed here is taken without being told.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from curation.heads.card import Activation, Output

NORM = ("norm.mean", "norm.variance")


@dataclass(frozen=True)
class Published:
    """layers: prefixes of `weight` and `bias`, in order. widths: of vectors and layers; 0 is any.

    normalised: whether mean and variance come first.
    """

    name: str
    layers: tuple[str, ...]
    widths: tuple[int, ...]
    activations: tuple[Activation, ...]
    output: Output = "none"
    normalised: bool = False


def _names(pattern: str, numbers: Iterable[int]) -> tuple[str, ...]:
    return tuple(pattern.format(number) for number in numbers)


# LAION-AI/aesthetic-predictor, christophschuhmann/improved-aesthetic-predictor and
# LAION-AI/CLIP-based-NSFW-Detector. In the one for H/14 nothing stands between the last two layers.
PUBLISHED = (
    Published("linear", ("",), (0, 1), ("none",)),
    Published(
        "LAION aesthetic V2",
        _names("layers.{}.", (0, 2, 4, 6, 7)),
        (768, 1024, 128, 64, 16, 1),
        ("none",) * 5,
    ),
    Published(
        "LAION NSFW L/14",
        _names("linear_{}.", (1, 2, 3, 4)),
        (768, 64, 512, 256, 1),
        ("relu", "relu", "relu", "none"),
        "sigmoid",
        True,
    ),
    Published(
        "LAION NSFW B/32",
        _names("linear_{}.", (1, 2, 3)),
        (512, 32, 32, 1),
        ("relu", "relu", "none"),
        "sigmoid",
        True,
    ),
    Published(
        "LAION NSFW H/14",
        _names("layers.{}.", (0, 3, 6, 9, 12, 15, 16)),
        (1024, 1024, 2048, 1024, 256, 128, 16, 1),
        ("relu", "relu", "relu", "relu", "relu", "none", "none"),
    ),
)


def recognised(tensors: Mapping[str, Any]) -> Published | None:
    """The published architecture whose tensors these are, by names and shapes."""
    return next((known for known in PUBLISHED if _fits(known, tensors)), None)


def _fits(known: Published, tensors: Mapping[str, Any]) -> bool:
    names = {prefix + end for prefix in known.layers for end in ("weight", "bias")}
    if set(tensors) != names | set(NORM if known.normalised else ()):
        return False
    shapes = [tensors[f"{prefix}weight"].shape for prefix in known.layers]
    expected = zip(known.widths[1:], known.widths[:-1], strict=True)
    return all(
        len(shape) == 2 and shape[0] == out and into in (0, shape[1])
        for shape, (out, into) in zip(shapes, expected, strict=True)
    )


def in_order(tensors: Mapping[str, Any]) -> tuple[str, ...]:
    """The prefixes of all `weight`s, numbers in them read as numbers: the order of the layers."""
    prefixes = [name.removesuffix("weight") for name in tensors if name.endswith("weight")]
    return tuple(sorted(prefixes, key=_counted))


def _counted(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
