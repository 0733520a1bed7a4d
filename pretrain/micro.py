"""A step in micro-batches: the activations of a few samples are held at a time.

An objective declares how (`Declared.divides`). Where its loss is a mean over samples, gradients of
micro-batches add up. Where samples are compared with each other they do not, and features are
cached (Gao et al. 2021, "GradCache", arXiv:2101.06983): made without gradient, compared once, and
made again, each micro-batch with the random numbers it had, to pass the gradient on.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from infra.errors import SluiceError
from pretrain.objectives.base import Comparing, Objective

Views = Mapping[str, Any]
Told = tuple[Tensor, dict[str, Tensor]]
Forward = Callable[[Views, float], Told]
Autocast = Callable[[], contextlib.AbstractContextManager[Any]]


def check(objective: Objective) -> None:
    """SluiceError where a network compares the samples of a batch by itself."""
    if any(isinstance(module, _BatchNorm) for module in objective.modules()):
        raise SluiceError(
            "micro_batch is set, and this network has batch norms: their statistics would be those "
            "of a micro-batch",
            "use a network with layer norms (a transformer, ConvNeXt), or leave micro_batch out",
        )


def parts(views: Views, samples: int, size: int) -> Iterator[tuple[float, dict[str, Any]]]:
    """The views of at most `size` samples at a time, and their share of all.

    Of each view the samples lie along the first dimension; where it has a multiple of `samples`
    rows, as two crops of every image one after the other, each block is cut alike. What has no
    rows stays as it is.
    """
    for start in range(0, samples, size):
        rows = slice(start, min(start + size, samples))
        cut = {name: _rows(value, samples, rows) for name, value in views.items()}
        yield (rows.stop - rows.start) / samples, cut


def _rows(value: Any, samples: int, rows: slice) -> Any:
    if isinstance(value, Tensor) and value.ndim:
        blocks, rest = divmod(len(value), samples)
        assert not rest, f"a view of {len(value)} rows of {samples} samples"
        return (
            value[rows] if blocks == 1 else value.unflatten(0, (blocks, -1))[:, rows].flatten(0, 1)
        )
    if isinstance(value, list | tuple):
        held: Sequence[Any] = value  # pyright: ignore[reportUnknownVariableType]
        return held[rows]
    return value


def accumulated(
    forward: Forward, views: Views, progress: float, samples: int, size: int, autocast: Autocast
) -> Told:
    """Gradients of a loss that is a mean over samples, added to those that are there.

    Returns the loss and the figures of the whole batch, both without gradient; figures that are
    no means over samples come out as the mean of those of the micro-batches.
    """
    losses: list[Tensor] = []
    figures: dict[str, Tensor] = {}
    for share, part in parts(views, samples, size):
        with autocast():
            loss, told = forward(part, progress)
        (loss * share).backward()
        losses.append(loss.detach() * share)
        for name, figure in told.items():
            figures[name] = figures.get(name, 0.0) + figure.detach() * share
    return torch.stack(losses).sum(), figures


def cached(
    objective: Comparing,
    views: Views,
    progress: float,
    samples: int,
    size: int,
    autocast: Autocast,
) -> Told:
    """Gradients of a loss that compares features, added to those that are there.

    They are those of the whole batch at once. The loss is taken once, so that the gradients of its
    own parameters, scale and bias, are counted once. Returns loss and figures without gradient.
    """
    device = next(objective.parameters()).device
    cut = [part for _, part in parts(views, samples, size)]
    states: list[list[Tensor]] = []
    made: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        for part in cut:
            states.append(random_state(device))
            with autocast():
                made.append(objective.features(part))
    features = tuple(torch.cat(each).requires_grad_(True) for each in zip(*made, strict=True))
    with autocast():
        loss, figures = objective.compare(features, views, progress)
    loss.backward()
    after = random_state(device)
    grads = [each.grad.split(size) for each in features if each.grad is not None]
    used = [place for place, each in enumerate(features) if each.grad is not None]
    for part, state, wanted in zip(cut, states, zip(*grads, strict=True), strict=True):
        restore(device, state)
        with autocast():
            again = objective.features(part)
        pairs = [(again[p], g) for p, g in zip(used, wanted, strict=True) if again[p].requires_grad]
        torch.autograd.backward([each for each, _ in pairs], [grad for _, grad in pairs])
    restore(device, after)
    return loss.detach(), {name: figure.detach() for name, figure in figures.items()}


def random_state(device: torch.device) -> list[Tensor]:
    """Of PyTorch's own generators on the CPU, and on `device` if that is a GPU."""
    state = [torch.get_rng_state()]
    return [*state, torch.cuda.get_rng_state(device)] if device.type == "cuda" else state


def restore(device: torch.device, state: Sequence[Tensor]) -> None:
    """Put back what `random_state` gave."""
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


def whole(module: nn.Module | Forward, views: Views, progress: float, autocast: Autocast) -> Told:
    """Gradients of the whole batch at once."""
    with autocast():
        loss, figures = module(views, progress)
    loss.backward()
    return loss, figures
