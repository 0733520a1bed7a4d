"""Convolutional networks that work on the shown cells of an image alone.

Sparse convolution by masking (SparK, Tian et al. 2023, arXiv:2301.03580): what a dense layer gives
is put back to zero in the hidden cells, so that nothing spreads over them, and batch norms take
their statistics from the shown places alone. `bound` makes a view of a network for one call that
does so; which cells are shown is held by that view and by nothing else. Calls that overlap, in
threads or otherwise, and parts that are computed again for their gradients each keep their own.

Values that a network averages over the whole map (gates as of squeeze-and-excitation) count hidden
places as zeros, as published.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm import layers
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.instancenorm import _InstanceNorm  # pyright: ignore[reportPrivateUsage]

from infra.errors import SluiceError
from pretrain.masked_images import enlarge

ROWS_FIRST = (  # layers whose output is [batch, channels, height, width]
    nn.Conv2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    layers.BlurPool2d,
    layers.LayerNorm2d,
    layers.LayerNorm2dFp32,
    layers.RmsNorm2d,
    layers.RmsNorm2dFp32,
    layers.SimpleNorm2d,
    layers.SimpleNorm2dFp32,
)
MOVED = 0.1  # what a check adds to biases
CHANNELS_LAST = (nn.Linear, nn.LayerNorm, layers.RmsNorm, layers.SimpleNorm)


class Shown:
    """Which cells of a grid each image shows, at every resolution a network may have.

    cells: bool [batch, rows, columns], True where shown. count: of those, where it is known: a GPU
    need then not be waited for to learn it.
    """

    def __init__(self, cells: Tensor, count: int | None = None) -> None:
        self.cells = cells
        self._count = count
        self._maps: dict[tuple[int, int], Tensor] = {}
        self._places: dict[tuple[int, int], Tensor] = {}

    def at(self, height: int, width: int) -> Tensor | None:
        """bool [batch, height, width]; None for a single value, which is of the whole image.

        Raises ValueError for a size that holds no whole cells.
        """
        if height == width == 1:
            return None
        rows, columns = self.cells.shape[1:]
        if height % rows or width % columns:
            raise ValueError(
                f"a map of {height} x {width} does not fall into {rows} x {columns} cells"
            )
        if (height, width) not in self._maps:
            self._maps[height, width] = enlarge(self.cells, height, width)
        return self._maps[height, width]

    def places(self, height: int, width: int) -> Tensor:
        """Indices of the shown places among batch * height * width, int64 [shown]."""
        if (height, width) not in self._places:
            shown = self.at(height, width)
            assert shown is not None
            self._places[height, width] = self._true(shown.flatten())
        return self._places[height, width]

    def _true(self, flags: Tensor) -> Tensor:
        """Indices of those that are true, ascending."""
        if self._count is None or flags.device.type == "cpu":
            return flags.nonzero()[:, 0]
        places = self._count * (len(flags) // self.cells.numel())
        return flags.byte().argsort(descending=True, stable=True)[:places]


def bound(network: nn.Module, shown: Shown) -> Any:
    """A view of `network`, with its very weights, that works on the shown cells alone.

    To be made for each call. Its input must be zero in hidden cells. Raises ValueError for a
    layer that has no sparse form here.
    """
    view = copy.copy(network)
    apply = _sparse(network)
    if apply is None:
        view._modules = {
            name: child if child is None else bound(child, shown)
            for name, child in network._modules.items()
        }
    else:
        view.forward = partial(apply, network, shown)
    return view


def _sparse(layer: nn.Module) -> Callable[..., Tensor] | None:
    """How this layer is applied to shown cells; None where its parts are what matters."""
    if isinstance(layer, _BatchNorm):
        return normalize_shown
    if isinstance(layer, nn.GroupNorm | _InstanceNorm):
        raise ValueError(f"{type(layer).__name__} averages over the places of an image")
    if isinstance(layer, ROWS_FIRST):
        return _keep_shown
    if isinstance(layer, CHANNELS_LAST):
        return _keep_shown_last
    return None


def _keep_shown(layer: nn.Module, shown: Shown, values: Tensor) -> Tensor:
    output = layer(values)
    places = shown.at(*output.shape[2:])
    return output if places is None else output * places[:, None].to(output.dtype)


def _keep_shown_last(layer: nn.Module, shown: Shown, values: Tensor) -> Tensor:
    output = layer(values)
    places = shown.at(*output.shape[1:3]) if output.ndim == 4 else None
    return output if places is None else output * places[..., None].to(output.dtype)


def normalize_shown(layer: nn.Module, shown: Shown, values: Tensor) -> Tensor:
    """A batch norm over the shown places of [batch, channels, height, width]; zero elsewhere.

    They are handed to the layer itself as one image [1, channels, shown, 1]: its statistics, its
    running averages and its activation, where it has one, are its own.
    """
    if values.ndim != 4 or shown.at(*values.shape[2:]) is None:
        return layer(values)
    batch, channels, height, width = values.shape
    rows = values.permute(0, 2, 3, 1).reshape(-1, channels)
    places = shown.places(height, width)
    taken = rows.index_select(0, places).view(1, -1, 1, channels).permute(0, 3, 1, 2)
    normal = layer(taken).permute(0, 2, 3, 1).reshape(-1, channels)
    output = normal.new_zeros(rows.shape).index_copy(0, places, normal)
    return output.view(batch, height, width, channels).permute(0, 3, 1, 2)


def feature_maps(network: nn.Module, images: Tensor, shown: Shown) -> list[Tensor]:
    """The maps of a timm network at all its scales, coarser and coarser, zero in hidden cells.

    images: [batch, 3, height, width], whose hidden cells are not looked at. The last map is what
    the network's own `forward_features` gives.
    """
    visible = shown.at(*images.shape[2:])
    assert visible is not None
    view = bound(network, shown)
    last, maps = view.forward_intermediates(images * visible[:, None].to(images.dtype))
    if last.shape[2:] == maps[-1].shape[2:]:
        maps = [*maps[:-1], last]
    return maps


@torch.no_grad()
def check_maps(network: nn.Module, size: int) -> dict[int, int]:
    """Pixels of a place -> channels, of the maps at all scales; a later map of a scale counts.

    Tried with one image of which every other cell is hidden, and with two: some networks take no
    more than one. Raises SluiceError where the network is not one that works on shown cells alone.
    """
    reductions: dict[int, int] = {}
    try:
        tried = _without_zeros(network)
        grid = size // int(network.feature_info[-1]["reduction"])  # type: ignore[index]
        chequers = (torch.arange(grid)[:, None] + torch.arange(grid)) % 2 == 0
        image = torch.linspace(-2, 2, 3 * size * size).view(1, 3, size, size).sin()
        for cells in (chequers[None], torch.stack([chequers, ~chequers])):
            shown = Shown(cells)
            for values in feature_maps(tried, image.expand(len(cells), -1, -1, -1), shown):
                places = shown.at(*values.shape[2:])
                if places is None or (values * ~places[:, None]).any():
                    raise ValueError("its features reach into hidden cells")
                reductions[size // values.shape[2]] = values.shape[1]
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise SluiceError(
            f"spark cannot train a {type(network).__name__} on {size} pixels: it must keep to the "
            f"shown cells of an image ({error})",
            "use a convolutional network of timm (resnet..., convnext_...) and an image_size that "
            "its stride divides, or simmim or mae for a transformer",
        ) from error
    return reductions


def _without_zeros(network: nn.Module) -> nn.Module:
    """A copy with other vectors: of a new network most are 0, and zeros would stay zeros by them
    that will not when it has learnt.
    """
    moved = copy.deepcopy(network).eval()
    for parameter in moved.parameters():
        if parameter.ndim == 1:
            parameter += MOVED
    return moved
