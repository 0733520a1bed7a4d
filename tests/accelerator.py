"""A device that PyTorch takes for an accelerator, on a machine that has none.

    from tests.accelerator import DEVICE, WAITS
    module.to(DEVICE); module(values.to(DEVICE)).sum().backward()

Its tensors hold ordinary ones, and what is asked of them is done by the processor: the numbers are
right. But they are of another device, as those of a GPU are: an operation that is given tensors of
both raises, and so does NumPy. `WAITS` counts, by where in this project it was asked for, whatever
a GPU would have to be waited for: numbers, shapes and copies that depend on its results.

It is told to PyTorch once, for the whole process, and before the first gradient is taken: use it
in a process of its own. Not shown by it: memory, streams, kernels that a GPU lacks, and numbers
that round otherwise there.
"""

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration

ROOT = Path(__file__).parents[1]
NAME = "pretend"
WAITS: Counter[str] = Counter()

aten: Any = torch.ops.aten
# What takes tensors of two devices on a GPU, too: copies, and indices.
MIXED = {
    aten.copy_.default,
    aten._to_copy.default,
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
INDEXED = MIXED - {aten.copy_.default, aten._to_copy.default}
READ = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.masked_select.default,
    aten.nonzero.default,
}


class _Module(backend_registration._DummyBackendModule):
    """What PyTorch asks a device for by name. Random numbers are the processor's own."""

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        return

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def manual_seed_all(self, seed: int) -> None:
        return


backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
DEVICE = torch.device(NAME, 0)
torch.__future__.set_swap_module_params_on_conversion(True)


class OnDevice(Tensor):
    """A tensor of the device; `inner`: that of the processor with its values."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: Mapping[str, Tensor], *_: Any) -> "OnDevice":
        return OnDevice(inner["inner"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, *args, **(kwargs or {}))

    def tolist(self) -> Any:
        _wait()
        return self.inner.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"a tensor of {DEVICE} is no array: call .cpu() first")

    __array__ = numpy

    def __setitem__(self, at: Any, value: Any) -> None:
        super().__setitem__(torch.tensor(at) if isinstance(at, list) else at, value)


def _wait() -> None:
    """Count a wait for the device by the innermost function of this project."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and path != Path(__file__) and ".venv" not in path.parts:
            name = frame.f_code.co_qualname.partition(".<locals>")[0]
            WAITS[f"{path.relative_to(ROOT)}:{name}"] += 1
            return
        frame = frame.f_back
    WAITS["?"] += 1


def _waits(func: Any, args: Sequence[Any], to_device: bool) -> bool:
    """Whether this cannot be asked of a GPU without waiting for its result."""
    if func is aten.copy_.default:
        return not isinstance(args[0], OnDevice)
    if func is aten._to_copy.default:
        return not to_device
    if func in INDEXED:
        return any(each is not None and each.dtype == torch.bool for each in args[1])
    return func in READ


def _run(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Have the processor do what the device was asked for."""
    given: dict[int, OnDevice] = {}

    def opened(value: Any) -> Any:
        if isinstance(value, OnDevice):
            given[id(value.inner)] = value
            return value.inner
        if isinstance(value, Tensor) and value.ndim and func not in MIXED:
            raise RuntimeError(
                f"{func}: a tensor of the processor, {tuple(value.shape)}, among those of {DEVICE}"
            )
        return [opened(each) for each in value] if isinstance(value, list | tuple) else value

    def closed(value: Any) -> Any:
        if isinstance(value, Tensor):
            return given[id(value)] if id(value) in given else OnDevice(value)
        return type(value)(map(closed, value)) if isinstance(value, list | tuple) else value

    asked = kwargs.pop("device", None)
    to_device = asked is None or torch.device(asked).type == NAME
    if asked is not None:
        kwargs["device"] = torch.device("cpu")
    kwargs.pop("pin_memory", None)
    if _waits(func, args, to_device):
        _wait()
    found = func(*map(opened, args), **{name: opened(each) for name, each in kwargs.items()})
    if func is aten.copy_.default:
        return args[0]
    return closed(found) if to_device else found


def _then_moved(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`make`, for which PyTorch writes into memory that this device does not have."""

    def made(*args: Any, device: Any = None, requires_grad: bool = False, **more: Any) -> Tensor:
        found = make(*args, **more)
        found = found if device is None else found.to(device)
        return found.requires_grad_() if requires_grad else found

    return made


for _name in ("tensor", "as_tensor", "arange"):
    setattr(torch, _name, _then_moved(getattr(torch, _name)))

_library = torch.library.Library("_", "IMPL")  # what makes tensors, and is given none
_library.fallback(_run, "PrivateUse1")
