"""What an objective is: views of a batch, a loss on them, and files that others can load."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.data import Batch
from pretrain.settings import TrainSettings
from pretrain.sharding import clip_norm


def exact(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Within it, float32 tensors are multiplied as such, whatever precision a run has."""
    return torch.autocast(device.type, enabled=False)


class Objective(nn.Module, ABC):
    """A loss with all the networks it trains or keeps.

    `pretrain/options/<name>.py` declares it, and has its options.

    The loop calls, each step: `views` (ahead), `forward`, backward, `before_update`,
    the optimizer, `after_update`. Whatever must survive a stop is a parameter or a buffer.
    `progress` is step / steps, from 0 up to but not 1.
    """

    # Views that a curriculum leaves as they are, such as those of a finished teacher.
    full_size: frozenset[str] = frozenset()
    # Whether it reaches into blocks of the network instead of calling them; fsdp then puts all
    # weights together for the whole forward pass.
    opens_blocks: bool = False
    # Whether some of its parameters may get no gradient in a step, the same ones in all processes.
    rests: bool = False
    # Whether views are to be as large as those of any batch may be: asked before a run, for memory.
    largest: bool = False

    def __init__(self, settings: TrainSettings) -> None:
        super().__init__()
        self.settings = settings

    @abstractmethod
    def views(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        """What `forward` takes, made from a batch by random numbers keyed by its position.

        Called without gradient, on another thread and ahead of the step: it reads neither the
        parameters nor PyTorch's own random numbers.
        """

    def captions(self, batch: Batch) -> list[str]:
        """What is read of each sample; its own caption, unless the objective draws another."""
        return batch.captions

    @abstractmethod
    def forward(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and figures for the metrics, all scalars.

        With `settings.precision` bfloat16, products within are of that precision, and networks
        give such outputs: turn them to float32 (`.float()`) and take the loss within `exact`.
        """

    @abstractmethod
    def files(self) -> Iterator[tuple[str, bytes]]:
        """The finished encoder as (path, bytes), in formats that other tools load."""

    def weight_decay(self, progress: float) -> float:
        """Weight decay of this step, for weights with two or more dimensions."""
        return self.settings.weight_decay

    def lr_scale(self, name: str, parameter: nn.Parameter) -> float:
        """Share of the learning rate at which this trained parameter learns."""
        return 1.0

    def before_update(self, progress: float) -> None:
        """After the backward pass: clip gradients to `settings.clip_grad`."""
        if self.settings.clip_grad is not None:
            clip_norm(self.trained(), self.settings.clip_grad)

    def after_update(self, progress: float) -> None:
        """After the optimizer's step: clamp, average, and the like."""
        return None

    def trained(self) -> list[nn.Parameter]:
        """The parameters the optimizer updates, in a fixed order."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def key(self, *names: object) -> tuple[object, ...]:
        """The key of this objective's random numbers of one kind."""
        return (self.settings.seed, self.settings.objective, *names)


class Comparing(Objective):
    """One whose loss compares samples by what the networks give of each, as `divides="features"`
    declares: a step can hold the activations of a few samples at a time (`pretrain.micro`).
    """

    @abstractmethod
    def features(self, views: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """What the networks give of each sample, [batch, ...] each, for `compare`."""

    @abstractmethod
    def compare(
        self, features: tuple[Tensor, ...], views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the features of a whole batch, and figures.

        It may use parameters that are scalars, such as a temperature, and no networks.
        """

    def forward(
        self, views: Mapping[str, Any], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self.compare(self.features(views), views, progress)
