"""bfloat16 on a processor without instructions for it: its products, taken in float32.

There PyTorch's own products of bfloat16 take several times as long as those of float32, or more
than ten times. These give the same numbers up to the order of a sum: the factors, which are
rounded to bfloat16 already, are widened, and what comes out is rounded again, as such
instructions do it.
"""

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as trees
from torch.utils._python_dispatch import TorchDispatchMode

# As they arrive with gradients; those of the second line come whole where there are none.
ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"
PRODUCTS = frozenset(
    getattr(torch.ops.aten, name).default
    for name in (
        *("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward"),
        *("linear", "matmul", "einsum", "conv1d", "conv2d", "scaled_dot_product_attention"),
        *(ATTENTION, f"{ATTENTION}_backward"),
    )
    if hasattr(torch.ops.aten, name)
)


def native(device: str) -> bool:
    """Whether a device, "cpu" or another of PyTorch's types, is made for products of bfloat16.

    True of a processor where PyTorch does not tell.
    """
    if device != "cpu":
        return True
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # PyTorch without oneDNN, or one that names it otherwise
        return True


def products(device: str, on: bool = True) -> contextlib.AbstractContextManager[Any]:
    """Within it, products of bfloat16 are taken in float32, unless `native(device)`.

    Passes back as well as forth, of this thread. Code of torch.compile is not run within it.
    """
    return contextlib.nullcontext() if not on or native(device) else Widened()


class Widened(TorchDispatchMode):
    """Takes `PRODUCTS` of bfloat16 in float32; everything else goes its way."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in PRODUCTS or not any(map(_low, trees.tree_leaves(args))):
            return func(*args, **kwargs)
        wide, named = trees.tree_map(
            lambda each: each.float() if _low(each) else each, (args, kwargs)
        )
        made = func(*wide, **named)
        if func.name() == f"aten::{ATTENTION}":
            return made[0].bfloat16(), made[1]  # logarithms that the way back takes in float32
        return trees.tree_map_only(Tensor, lambda each: each.bfloat16(), made)


def _low(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype is torch.bfloat16
