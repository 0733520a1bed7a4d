"""The memory of a run's steps, measured before it starts: real steps of small batches.

Where the batch is larger, what they hold is continued in a line.
"""

import contextlib
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as trees
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.data import Batch, Source
from pretrain.job import Job
from pretrain.loop import VIEWS_AHEAD, Trainer
from pretrain.objectives.base import Objective
from pretrain.settings import TrainSettings

PROBES = 8, 16  # samples of the two steps whose memory is continued in a line to the full batch
TRIED = 8  # batches of which the fullest is taken, where parts of an objective may rest


class Live(TorchDispatchMode):
    """Bytes of the tensors that operations within it have made and that are still there.

    `peak` is the most there were at once. Counted by storage, so views cost nothing; what was
    there before is not counted. In the thread that enters it: on a CPU backward passes, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in trees.tree_leaves((args, kwargs)):
            self._note(leaf, new=False)
        given = func(*args, **(kwargs or {}))
        for leaf in trees.tree_leaves(given):
            self._note(leaf, new=True)
        return given

    def _note(self, leaf: Any, new: bool) -> None:
        if not isinstance(leaf, Tensor) or leaf.layout is not torch.strided:
            return
        storage: Any = leaf.untyped_storage()
        key: int = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes() if new else 0
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@dataclass(frozen=True)
class Memory:
    """Bytes of one process. weights: parameters and buffers, all networks an objective keeps.

    state: the optimizer's. step: the most that forward and backward hold at once, gradients
    included. waiting: views made ahead. there: what the device has, None where it does not tell.
    measured_at: samples of the largest step that was taken; `step` is extrapolated beyond.
    """

    weights: int
    gradients: int
    state: int
    step: int
    waiting: int
    there: int | None
    measured_at: int

    @property
    def activations(self) -> int:
        return max(self.step - self.gradients, 0)

    @property
    def total(self) -> int:
        return self.weights + self.state + max(self.step, self.gradients) + self.waiting


@contextlib.contextmanager
def rehearsal(settings: TrainSettings, sources: Sequence[Source]) -> Iterator[Trainer]:
    """The run's own loop, in a folder that nobody keeps."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(Job(folder, "preflight", settings, tuple(sources)))
        try:
            yield trainer
        finally:
            trainer.writer.close()


def measure_memory(settings: TrainSettings, sources: Sequence[Source]) -> Memory:
    """From one real step at each of two small batches, or at the full one where that is small."""
    least = settings.declared.needs.least_batch
    sizes = sorted({max(least, min(settings.batch, probe)) for probe in PROBES})
    taken = [_step_memory(settings, sources, size) for size in sizes]
    first, last = taken[0], taken[-1]
    cut = min(settings.micro_batch or settings.batch, settings.batch)

    def at(field: str, batch: int) -> int:
        low, high = getattr(first, field), getattr(last, field)
        if sizes[0] == sizes[-1]:
            return high
        slope = (high - low) / (sizes[-1] - sizes[0])
        return max(round(high + slope * (batch - sizes[-1])), high)

    step = at("step", cut)
    if cut < settings.batch:  # gradients of the parts before stay while one is computed
        step += last.gradients

    return Memory(
        last.weights,
        last.gradients,
        last.state,
        step,
        (VIEWS_AHEAD + 1) * at("waiting", settings.batch),
        last.there,
        sizes[-1],
    )


def _step_memory(settings: TrainSettings, sources: Sequence[Source], batch: int) -> Memory:
    small = settings.model_copy(update={"batch": batch, "compile": False, "micro_batch": None})
    with rehearsal(small, sources) as trainer:
        views = _views(trainer)
        peak = _peak_of_step(trainer, views)
        held = [*trainer.objective.parameters(), *trainer.objective.buffers()]
        state = [trainer.optimizer.state[each] for each in trainer.objective.trained()]
        return Memory(
            _bytes(held),
            _bytes([each.grad for each in trainer.objective.trained()]),
            _bytes(state),
            peak,
            _bytes(views[1]),
            room(trainer.device),
            batch,
        )


def _peak_of_step(trainer: Trainer, views: Any) -> int:
    """Bytes that a forward and backward pass hold at most, beyond what was there before."""
    found: list[int] = []
    if trainer.device.type == "cuda":
        trainer.advance(*views)  # the first step also loads kernels
        trainer.optimizer.zero_grad(set_to_none=True)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        hook = trainer.optimizer.register_step_pre_hook(
            lambda *_: found.append(torch.cuda.max_memory_allocated() - before)
        )
        trainer.advance(*views)
    else:
        live = Live()
        hook = trainer.optimizer.register_step_pre_hook(lambda *_: found.append(live.peak))
        with live:
            trainer.advance(*views)
    hook.remove()
    return max(found)


def _views(trainer: Trainer) -> Any:
    """The most a step takes: of the first batch, or of the fullest of a few where parts rest."""
    for module in trainer.objective.modules():
        if isinstance(module, Objective):
            module.largest = True
    stream = trainer.stream.batches(trainer.stream.start())
    views = trainer.viewed(Given(lambda: next(stream)))  # pyright: ignore[reportArgumentType]
    few = islice(views, TRIED if trainer.objective.rests else 1)
    return max(few, key=lambda viewed: (len(viewed[1]), _bytes(viewed[1])))


class Given:
    """In the place of batches that a thread makes ahead."""

    def __init__(self, give: Callable[[], Batch]) -> None:
        self.next = give


def _bytes(tree: Any) -> int:
    """Of the tensors within; those that share memory count once."""
    sizes: dict[int, int] = {}
    for leaf in trees.tree_leaves(tree if not isinstance(tree, Mapping) else dict(tree)):  # pyright: ignore
        if isinstance(leaf, Tensor):
            sizes[leaf.untyped_storage().data_ptr()] = leaf.untyped_storage().nbytes()
    return sum(sizes.values())


def room(device: torch.device) -> int | None:
    """Bytes that are free on the device; of a CPU's machine, or its container; None: not told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvail"))
        limit = Path("/sys/fs/cgroup/memory.max")
        most = limit.read_text().strip() if limit.is_file() else "max"
        if most.isdigit():
            used = int(Path("/sys/fs/cgroup/memory.current").read_text())
            free = min(free, int(most) - used)
        return free
    except (OSError, StopIteration, ValueError):
        return None


def fits(memory: Memory) -> str:
    """Whether the run fits, in words."""
    if memory.there is None:
        return "this device does not tell how much memory it has"
    if memory.total <= memory.there * 0.9:
        return f"it fits: {memory.total / memory.there:.0%} of what is free"
    return (
        f"it does not fit: {size(memory.total)} of {size(memory.there)}; lower batch, or set "
        "grad_checkpointing or precision: bfloat16"
    )


def size(count: int) -> str:
    """Bytes for people: MB up to 10 GB."""
    return f"{count / 1e6:.0f} MB" if count < 1e10 else f"{count / 1e9:.1f} GB"
