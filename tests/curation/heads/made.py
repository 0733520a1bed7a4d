"""Heads as torch modules of the published architectures, with random weights."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

TOLD = {"embedding": "ViT-L-14/openai", "units": "aesthetic score 1..10"}
TOLD |= {"polarity": "higher is better"}


class Normalised(nn.Module):
    """As LAION's NSFW heads: normalised vectors, ReLU between layers, a sigmoid at the end."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.norm = nn.Module()
        self.norm.register_buffer("mean", torch.randn(widths[0]) / 20)
        self.norm.register_buffer("variance", torch.rand(widths[0]) / 500 + 1e-4)
        self.count = len(widths) - 1
        for place in range(self.count):
            setattr(self, f"linear_{place + 1}", nn.Linear(widths[place], widths[place + 1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x - self.norm.mean) / self.norm.variance.sqrt()
        for place in range(1, self.count):
            x = torch.relu(getattr(self, f"linear_{place}")(x))
        return torch.sigmoid(getattr(self, f"linear_{self.count}")(x))


class Layers(nn.Module):
    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*modules)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def aesthetic_v2() -> nn.Module:
    return Layers(
        nn.Linear(768, 1024),
        nn.Dropout(0.2),
        nn.Linear(1024, 128),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.Dropout(0.1),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    )


def nsfw_h14() -> nn.Module:
    widths = (1024, 1024, 2048, 1024, 256, 128)
    modules: list[nn.Module] = []
    for into, out in pairwise(widths):
        modules += [nn.Linear(into, out), nn.ReLU(), nn.Dropout(0.2)]
    return Layers(*modules, nn.Linear(128, 16), nn.Linear(16, 1))


PUBLISHED = {
    "v1-l14": lambda: nn.Linear(768, 1),
    "v1-b32": lambda: nn.Linear(512, 1),
    "v2": aesthetic_v2,
    "nsfw-l14": lambda: Normalised(768, 64, 512, 256, 1),
    "nsfw-b32": lambda: Normalised(512, 32, 32, 1),
    "nsfw-h14": nsfw_h14,
}
DIMENSIONS = {"v1-l14": 768, "v1-b32": 512, "v2": 768, "nsfw-l14": 768, "nsfw-b32": 512}
DIMENSIONS |= {"nsfw-h14": 1024}


def module(name: str, seed: int = 0) -> nn.Module:
    """In evaluation mode, with weights drawn from the seed, such that scores differ."""
    torch.manual_seed(seed)
    made = PUBLISHED[name]().eval()
    for weight in made.parameters():
        if weight.ndim == 2:
            nn.init.kaiming_normal_(weight)
    return made


def save(made: nn.Module, file: Path) -> str:
    safetensors.torch.save_file(made.state_dict(), file)
    return str(file)


def unit(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    """float16 unit vectors as a score folder holds them."""
    drawn = np.random.default_rng(seed).standard_normal((count, dimension))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)
