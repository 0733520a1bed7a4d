"""A curriculum: smaller images and weaker augmentation first.

EfficientTrain, Wang et al. 2023 (arXiv:2211.09703): a network learns the low frequencies of images
first, so it is shown these alone, on fewer pixels. Any objective can take it whose network takes
images of several sizes. A stage is a function of the step, so nothing of it needs to be kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from infra.errors import SluiceError
from pretrain.data import Batch
from pretrain.objectives.base import Objective
from pretrain.settings import TrainSettings
from pretrain.stages import Stage, efficient_train

Views = Mapping[str, Any]


def low_frequencies(images: Tensor, size: int) -> Tensor:
    """[..., side, side] -> [..., size, size]: the lowest `size` frequencies of each axis.

    Of the two-dimensional discrete Fourier transform, scaled by (size / side)**2, so that the mean
    stays, and the real part of its inverse. At its own size an image stays as it is.
    """
    side = images.shape[-1]
    if size == side:
        return images
    low, high = (size + 1) // 2, size // 2
    kept = [*range(low), *range(side - high, side)]
    places = torch.tensor(kept, device=images.device)
    spectrum = torch.fft.fft2(images)[..., places, :][..., places]
    return torch.fft.ifft2(spectrum * (size / side) ** 2).real


class Curriculum:
    """The stages of a run, on images that a network takes in whole patches."""

    def __init__(self, settings: TrainSettings, objective: Objective) -> None:
        self.settings, self.objective = settings, objective
        self.unit = settings.patch_size or _patch(objective) or 2
        self.stages = self._stages()

    def _stages(self) -> tuple[Stage, ...]:
        given = self.settings.curriculum
        if given is None:
            return (Stage(until=1.0, size=None, strength=1.0),)
        if given == "efficienttrain":
            return efficient_train(self.settings.image_size, self.unit)
        return tuple(given)

    def stage(self, step: int) -> Stage:
        share = step / self.settings.steps
        # Before a run its pace may be tried for longer than it is.
        return next((stage for stage in self.stages if share < stage.until), self.stages[-1])

    def weaken(self, batch: Batch, step: int) -> Batch:
        """`batch`, to be augmented as strongly as its step asks for."""
        return replace(batch, strength=self.stage(step).strength)

    def shrink(self, views: Views, size: int | None) -> dict[str, Any]:
        """Views with all their images, [n, 3, side, side], on fewer pixels.

        An image of `image_size` gets `size`; others, as small crops, shrink by the same ratio.
        """
        whole = self.settings.image_size
        if size is None or size == whole:
            return dict(views)
        return {
            name: self._small(value, size / whole)
            if name not in self.objective.full_size and _is_images(value)
            else value
            for name, value in views.items()
        }

    def _small(self, images: Tensor, ratio: float) -> Tensor:
        side = images.shape[-1]
        size = max(round(side * ratio / self.unit), 1) * self.unit
        small = low_frequencies(images, min(size, side))
        return small.contiguous(memory_format=torch.channels_last)

    def check(self, forward: Callable[[Views, float], Any], views: Views) -> None:
        """SluiceError unless the network takes these views, of full size, in every stage's size.

        Each size is tried without gradient, and leaves no trace.
        """
        sizes = {stage.size for stage in self.stages} - {None, self.settings.image_size}
        before = {name: value.clone() for name, value in self.objective.named_buffers()}
        for size in sorted(size for size in sizes if size):
            try:
                with torch.no_grad(), torch.random.fork_rng():
                    forward(self.shrink(views, size), 0.0)
            except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
                said = str(error).splitlines() or [type(error).__name__]
                raise SluiceError(
                    f"{self.settings.objective} cannot learn from images of {size} pixels with "
                    f"this network, as its curriculum wants: {said[0]}",
                    "leave curriculum out, or use a network that takes several sizes (a "
                    "convolutional one, or a vision transformer of timm) and an objective that "
                    "has nothing laid out for one size, such as masks",
                ) from error
            finally:
                with torch.no_grad():
                    for name, value in self.objective.named_buffers():
                        value.copy_(before[name])


def _is_images(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.ndim == 4
        and value.shape[1] == 3
        and value.shape[2] == value.shape[3]
    )


def _patch(networks: nn.Module) -> int | None:
    """The side of the patches that a network within embeds; None where there is none."""
    for module in networks.modules():
        embed: Any = getattr(module, "patch_embed", None)
        patch = getattr(embed, "patch_size", None)
        side = patch[0] if isinstance(patch, tuple) else patch
        if isinstance(side, int):
            return side
    return None
