"""Draw batches of fractal images with PyTorch, on a GPU or the CPU, from `plans`.

The orbits take the same steps as in `kernels`: single precision, each product and sum rounded on
its own, so that on any device with IEEE arithmetic the counts are those of the CPU's renderer, and
an image differs from its own by no more than one level of the density where a logarithm is rounded
differently. It was tried on the CPU alone: no GPU has run it yet.

All images of a batch take a step together, some ten kernels a step over [2, images, ORBITS], and
nothing waits for the device. The step's maps are a window of an array, the same for all images, so
nothing is gathered and no random number is drawn; batches of some thousand images fill a large GPU.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curation.synthetic import kernels, painting
from curation.synthetic.ifs import turns
from curation.synthetic.kernels import ORBITS
from curation.synthetic.plans import Plans, planned_all
from curation.synthetic.render import back_hues, blur_side, decay, front_hues, patch
from curation.synthetic.settings import FractalSettings

PAINTED = 256  # images painted at a time, which bounds the memory beside counts and images
MASK = 0xFFFFFFFF


@torch.inference_mode()
def draw_batch(
    settings: FractalSettings,
    wanted: Sequence[tuple[int, int]],
    device: str | torch.device = "cuda",
) -> Tensor:
    """The images of `wanted` pairs (system, instance): uint8 [images, size, size, 3] on `device`.

    Beside them 4 bytes a pixel are taken for the counts, and some 100 bytes a pixel of PAINTED.
    """
    plans = planned_all(settings, wanted, settings.size)
    counts = visits(plans, settings.points, device)
    images = torch.empty((len(plans), settings.size, settings.size, 3), dtype=torch.uint8,
                         device=device)  # fmt: skip
    for first in range(0, len(plans), PAINTED):
        part = slice(first, first + PAINTED)
        images[part] = painted(settings, plans, part, counts[part])
    return images


def visits(plans: Plans, points: int, device: str | torch.device) -> Tensor:
    """How often points visit each pixel, int32 [images, size + 2, size + 2], margins included."""
    width = plans.size + 2
    if len(plans) * width * width >= 2**31:
        raise ValueError("a batch has at most 2**31 pixels")
    (across, down, beyond), points_now = orbits(plans, device)
    counts = torch.zeros(len(plans) * width * width, dtype=torch.int32, device=device)
    base = torch.arange(len(plans), dtype=torch.int32, device=device)[:, None] * (width * width)
    ones = torch.ones(len(plans) * ORBITS, dtype=torch.int32, device=device)
    zero = torch.zeros((), device=device)
    for step, turn in enumerate(turns(-(-points // ORBITS)).tolist()):
        window = slice(turn, turn + ORBITS)
        x, y = points_now
        points_now = (across[..., window] * x).add_(down[..., window] * y).add_(beyond[..., window])
        # The greater of two by fmax: what is no number falls into the margin, too.
        column, row = torch.fmax(points_now, zero).clamp_max_(width - 0.5).to(torch.int32)
        cells = row.mul_(width).add_(column).add_(base)[:, : points - step * ORBITS]
        counts.index_add_(0, cells.reshape(-1), ones[: cells.numel()])
    return counts.view(len(plans), width, width)


def orbits(plans: Plans, device: str | torch.device) -> tuple[tuple[Tensor, ...], Tensor]:
    """The maps on their places, twice over, and the starts: x and y, float32 [2, images, ORBITS].

    The first are three float32 [2, images, 2 ORBITS]: (a, c), (b, d) and (e, f).
    """
    maps, places = (torch.from_numpy(each).to(device) for each in (plans.maps, plans.places))
    image = torch.arange(len(plans), device=device)[:, None]
    columns = maps[image, places.long()].permute(2, 0, 1)
    columns = torch.cat([columns, columns], 2)
    points = torch.from_numpy(plans.points).to(device).transpose(0, 1).contiguous()
    return (columns[[0, 2]], columns[[1, 3]], columns[[4, 5]]), points


def painted(settings: FractalSettings, plans: Plans, part: slice, counts: Tensor) -> Tensor:
    """Images uint8 [images, size, size, 3] of a part's counts [images, size + 2, size + 2]."""
    device = counts.device
    numbers = torch.from_numpy(plans.numbers[part]).to(device)
    keys = torch.from_numpy(plans.noise[part].astype(np.int64)).to(device)
    levels = filled(settings, plans.numbers[part], counts, keys)
    colours = torch.cat([front_ramps(settings, numbers), back_ramps(settings, numbers)], 1)
    colours[:, 0] = colours[:, 256]
    index = levels.to(torch.int32)
    if settings.background != "black":
        behind = backdrops(settings, plans.size, numbers, keys)
        index = torch.where(index > 0, index, behind.to(torch.int32) + 256)
    index += torch.arange(len(counts), dtype=torch.int32, device=device)[:, None, None] * 512
    packed = torch.nn.functional.pad(colours, (0, 1)).view(torch.int32).view(-1)  # 4 bytes at once
    images = packed[index.view(-1)].view(torch.uint8).view(*levels.shape, 4)[..., :3]
    sides = [blur_side(settings, each) for each in plans.numbers[part]]
    return blurred(images, torch.tensor(sides, device=device)) if any(sides) else images


def filled(
    settings: FractalSettings, numbers: NDArray[np.float64], counts: Tensor, keys: Tensor
) -> Tensor:
    """Levels uint8 [images, size, size], as `render.filled`."""
    if settings.fill == "patch":
        bits = torch.tensor([patch(each) for each in numbers], device=counts.device)
        return pressed((counts > 0) * bits.to(torch.int32)[:, None, None], 255)
    if settings.fill == "patches":
        return pressed(patches(counts, keys), painting.MID_GREY)
    inner = counts[:, 1:-1, 1:-1]
    shades = inner.to(torch.float64)
    if settings.fill == "density":
        shades = shades.log1p().to(torch.float32).to(torch.float64)
    most = shades.amax((1, 2), keepdim=True)
    most.masked_fill_(most == 0, 1)
    return (255.0 * shades / most).to(torch.uint8).maximum((inner > 0).to(torch.uint8))


def patches(counts: Tensor, keys: Tensor) -> Tensor:
    """What the random patches around each cell's points cover: nine bits, int32 as counts."""
    size = counts.shape[1] - 2
    inner = counts[:, 1:-1, 1:-1]
    cells = torch.arange(size * size, device=counts.device).view(size, size)
    bits = torch.where(inner > painting.FULL, 511, 0)
    for visit in range(painting.FULL):
        one = (noise(keys, 2 * cells + visit // 3) >> (9 * (visit % 3))) & 511
        bits |= torch.where((inner > visit) & (inner <= painting.FULL), one, 0)
    return torch.nn.functional.pad(bits.to(torch.int32), (1, 1, 1, 1))


def pressed(bits: Tensor, level: int) -> Tensor:
    """`level` where patches [images, size + 2, size + 2] cover a pixel, 0 elsewhere."""
    bits = torch.nn.functional.pad(bits[:, 1:-1, 1:-1], (1, 1, 1, 1))
    size = bits.shape[1] - 2
    covered = torch.zeros_like(bits[:, 1:-1, 1:-1])
    for bit in range(9):
        top, left = 2 - bit // 3, 2 - bit % 3
        covered |= bits[:, top : top + size, left : left + size] >> bit
    return ((covered & 1) * level).to(torch.uint8)


def noise(keys: Tensor, index: Tensor) -> Tensor:
    """`painting.noise` of keys [images, 2] at index [rows, columns]: int64 of 32 bits."""
    low, high = keys[:, 0, None, None], keys[:, 1, None, None]
    z = (index * int(painting.GOLDEN_32) + low) & MASK
    z = (((z ^ (z >> 16)) * int(painting.MIX_1)) & MASK) ^ high
    z = ((z ^ (z >> 13)) * int(painting.MIX_2)) & MASK
    return z ^ (z >> 16)


def backdrops(settings: FractalSettings, size: int, numbers: Tensor, keys: Tensor) -> Tensor:
    """Levels uint8 [images, size, size], as `render.backdrop`."""
    if settings.background == "clouds":
        grid = clouds(1 << (size - 1).bit_length(), decay(numbers), keys)
    else:
        steps = torch.from_numpy(np.arange(size) / (size - 1)).to(keys.device)
        slopes = 2 * numbers[:, kernels.ACROSS : kernels.DOWN + 1, None] - 1
        across, down = slopes[:, 0] * steps, slopes[:, 1] * steps
        grid = (across[:, None, :] + down[:, :, None]).to(torch.float32)
    least = grid.amin((1, 2), keepdim=True)
    extent = grid.amax((1, 2), keepdim=True) - least + 1e-6
    scale = torch.full_like(extent, 255.0) / extent  # a plain number would be rounded twice
    return ((grid[:, :size, :size] - least) * scale).to(torch.uint8)


def clouds(side: int, shrink: Tensor, keys: Tensor) -> Tensor:
    """`painting.diamond_square` on [images, side + 1, side + 1]."""
    width = side + 1
    index = torch.arange(width * width, device=keys.device).view(width, width)
    grid = (noise(keys, index) >> 8).to(torch.float32) * 2.0**-24 - 0.5
    step, amount = side, torch.ones_like(shrink)
    while step > 1:
        half, scale = step // 2, amount.to(torch.float32)[:, None, None]
        corners = grid[:, ::step, ::step]
        total = (corners[:, :-1, :-1] + corners[:, :-1, 1:]) + (
            corners[:, 1:, :-1] + corners[:, 1:, 1:]
        )
        middle = grid[:, half::step, half::step]
        middle.copy_(0.25 * total + scale * middle)
        # Rows of corners get the cells between them, then rows of middles the cells between those.
        across = grid[:, ::step, half::step]
        over = torch.cat([middle[:, :1], middle], 1) + torch.cat([middle, middle[:, -1:]], 1)
        beside = corners[:, :, :-1] + corners[:, :, 1:]
        down = grid[:, half::step, ::step]
        above = corners[:, :-1] + corners[:, 1:]
        left_right = torch.cat([middle[:, :, :1], middle], 2) + torch.cat(
            [middle, middle[:, :, -1:]], 2
        )
        across.copy_(0.25 * (over + beside) + scale * across)
        down.copy_(0.25 * (above + left_right) + scale * down)
        step, amount = half, amount * shrink
    return grid


def front_ramps(settings: FractalSettings, numbers: Tensor) -> Tensor:
    """Colours uint8 [images, 256, 3], as `render.front_ramp`."""
    return ramps(front_hues(numbers), numbers) if settings.colour else greys(numbers)


def back_ramps(settings: FractalSettings, numbers: Tensor) -> Tensor:
    """Colours uint8 [images, 256, 3], as `render.back_ramp`."""
    if settings.background == "black":
        return torch.zeros_like(greys(numbers))
    return ramps(back_hues(numbers), numbers) if settings.colour else greys(numbers) // 2


def greys(numbers: Tensor) -> Tensor:
    levels = torch.arange(256, dtype=torch.uint8, device=numbers.device)
    return levels[:, None].repeat(len(numbers), 1, 3)


def ramps(hues: tuple[Any, ...], numbers: Tensor) -> Tensor:
    """`painting.hue_ramp` for every image: uint8 [images, 256, 3]."""
    hue, turn, low, high, dark, light = (
        torch.as_tensor(value, dtype=torch.float64, device=numbers.device).expand(len(numbers))[
            :, None
        ]
        for value in hues
    )
    share = torch.arange(256, dtype=torch.float64, device=numbers.device) / 256.0
    angle = 6.0 * (hue + turn * share)
    full = 255.0 * (dark + (light - dark) * share)
    chroma = full * (low + (high - low) * share)
    channel = torch.arange(3, dtype=torch.float64, device=numbers.device)
    k = (angle[:, :, None] + 5.0) - 2.0 * channel
    k = k - 6.0 * torch.floor(k * painting.SIXTH)
    part = torch.minimum(k, 4.0 - k).clamp(0.0, 1.0)
    return (full[:, :, None] - chroma[:, :, None] * part).to(torch.uint8)


def blurred(images: Tensor, sides: Tensor) -> Tensor:
    """`painting.blur` of images [images, rows, columns, 3], each by its side [images]."""
    side = sides.to(torch.int32)[:, None, None, None]
    now = images.to(torch.int32)
    for axis in (2, 1):
        length = now.shape[axis]
        first, last = now.narrow(axis, 0, 1), now.narrow(axis, length - 1, 1)
        before = torch.cat([first, now.narrow(axis, 0, length - 1)], axis)
        after = torch.cat([now.narrow(axis, 1, length - 1), last], axis)
        now = side * (before + after) + (256 - 2 * side) * now
    return ((now + 32768) >> 16).to(torch.uint8)
