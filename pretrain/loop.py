"""The training loop: plain PyTorch, the same bytes wherever it is started.

On a CPU every step is a pure function of the settings and the step's number: threads are fixed,
algorithms deterministic, random numbers keyed by position, and a checkpoint holds the rest.
Several processes share each batch (`pretrain.ranks`); sums are then rounded in another order.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import nn

from indexes import bfloat16
from infra import artifacts, filesystem
from infra.artifacts import Part
from infra.digests import generator
from infra.errors import SluiceError
from infra.progress import Pulse
from pretrain import checkpoint, micro, objectives, sharding
from pretrain.average import Average
from pretrain.backbones import checkpoint_blocks
from pretrain.checkpoint import Saved
from pretrain.checkpoint_files import Writer
from pretrain.compiled import Compiled
from pretrain.curriculum import Curriculum
from pretrain.data import Ahead, Batch, Stream
from pretrain.job import PART, Job, Progress
from pretrain.objectives.base import Comparing, Objective
from pretrain.observe import Observer
from pretrain.online import Online, figures
from pretrain.optimizers import learning_rate, make_optimizer, set_step
from pretrain.ranks import Ranks, joined
from pretrain.seen import STREAM
from pretrain.streams import Aside

METRICS = "metrics.jsonl"
NAMED = 5  # undecodable samples that the record names, not only counts
BATCHES_AHEAD = 2  # decoded before they are turned into views
VIEWS_AHEAD = 1  # made before the step that needs them: they are several times larger
Viewed = tuple[Mapping[str, Any], Mapping[str, Any]]  # where the stream stands, and views


def run(job: Job, progress: Progress) -> None:
    """Train from the last checkpoint, if any, to the end; write the files and record the part.

    Of several processes that torch.distributed has joined, each calls this; the first one writes.
    """
    if PART in artifacts.recorded_names(job.url):
        return  # a worker died between its last file and its last word
    with deterministic(job.settings.threads):
        trainer = Trainer(job, joined())
        if trainer.step:
            progress(trainer.step, Pulse("resumed"))
        trainer.train(progress)
        with trainer.exported() as objective:
            if objective is not None:
                artifacts.record_part(job.url, trainer.finish(objective), *trainer.spent())


@contextlib.contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """A fixed number of threads and reproducible algorithms; all is given back afterwards."""
    before = torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without, no product of a GPU is
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    torch.set_num_threads(threads)
    memory.fill_uninitialized_memory = False  # a pass over each new tensor
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict)
        memory.fill_uninitialized_memory = filled


class Trainer:
    """A run in progress."""

    def __init__(self, job: Job, ranks: Ranks | None = None) -> None:
        self.job = job
        self.observer: Observer | None = None  # while it trains
        self.ranks = ranks or Ranks()
        self.settings = job.settings
        self._start = time.monotonic(), time.process_time()
        self.device = claim(pick_device(self.settings.device))
        self.stream = Stream(
            job.sources,
            batch=self.settings.batch,
            canvas=self.settings.canvas_size,
            shuffle=self.settings.shuffle,
            seed=self.settings.seed,
            cache_mib=self.settings.cache_mib,
            threads=self.settings.threads,
            samples=self.settings.steps * self.settings.batch,
            texts=self.settings.declared.needs.meta,
            columns=self.settings.columns,
            ranks=self.ranks,
            unusable=self.settings.options.unusable if self.settings.declared.needs.meta else None,
            common=self.settings.options.common,
        )
        self.cut = self.settings.sharding == "fsdp" and self.ranks.count > 1
        # Convolutions are a third faster on channels-last weights, on a CPU too.
        self.objective = objectives.build(self.settings).to(self.device)
        self.objective.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.objective.train()
        if self.settings.grad_checkpointing:
            checkpoint_blocks(self.objective)
        if self.settings.micro_batch:
            micro.check(self.objective)
        self.curriculum = Curriculum(self.settings, self.objective)
        shared: nn.Module = self.objective
        if self.cut:
            sharding.shard(self.objective, self.device)
        elif not self.settings.micro_batch:
            shared = self.ranks.shared(self.objective)
        self.forward = Compiled(shared) if self.settings.compile else shared
        self.optimizer = make_optimizer(self.objective, self.settings)
        if self.cut:
            sharding.part_scalars(self.optimizer)
        self.average = None
        if self.settings.ema is not None:
            self.average = Average(self.objective, self.settings.ema)
        saved = checkpoint.load_checkpoint(job.url, job.digest, *self.kept(), self.ranks)
        saved = saved or Saved(0, self.stream.start(), [])
        self.step, self.state, self.metrics = saved.step, saved.stream, list(saved.metrics)
        self.online = Online(job, self.ranks, self.device, self.step)
        self._before = saved.seconds, saved.cpu_seconds
        self.writer = Writer(job.url, self.settings.keep_checkpoints, self.ranks.each)
        self._losses: list[float] = []  # logged since the last checkpoint

    def kept(self) -> tuple[Objective, torch.optim.Optimizer, Mapping[str, torch.Tensor] | None]:
        """What a checkpoint holds, beside the place."""
        return self.objective, self.optimizer, self.average.tensors if self.average else None

    def spent(self) -> tuple[float, float]:
        """Seconds and CPU-seconds on this run, those before the last checkpoint included."""
        seconds = time.monotonic() - self._start[0] + self._before[0]
        return seconds, time.process_time() - self._start[1] + self._before[1]

    def train(self, progress: Progress) -> None:
        with contextlib.ExitStack() as stack:
            watching = Observer(self.job, self.objective, self.device, self.step, self.ranks.first)
            self.observer = observer = stack.enter_context(contextlib.closing(watching))
            stack.callback(self.writer.close)
            self.ask()  # now: threads that start while it asks would keep its count of threads
            viewed = stack.enter_context(self.ahead(self.settings.steps - self.step))
            tried = False
            while self.step < self.settings.steps:
                state, views = observer.next(viewed)
                if not tried:
                    self.curriculum.check(self.objective, views)
                    tried = True
                size = self.curriculum.stage(self.step).size
                self.advance(state, self.curriculum.shrink(views, size))
                observer.done()
                if self.ranks.first:
                    progress(self.step, observer.pulse(self.note()))
                self.ask()  # before the checkpoint, after which it would not be asked again
                due = self.step % self.settings.checkpoint_every == 0
                if due and self.step < self.settings.steps and (self.ranks.first or self.cut):
                    self.save()
                    observer.save()
            observer.save()
            self.writer.wait()

    def note(self) -> str:
        """How the run stands, in a few words."""
        loss = f"loss {json.loads(self.metrics[-1])['loss']:.3f}"
        return ", ".join(filter(None, [loss, self.online.words()]))

    def ask(self) -> None:
        """Ask the encoder as it stands what it has learnt, if that is due."""
        if self.online.due(self.step):
            with self.exported() as objective:
                rows = self.online.ask(self.step, objective, self.spent()[0])
            if self.observer:
                self.observer.asked(self.step, figures(rows))

    @contextlib.contextmanager
    def ahead(self, steps: int | None = None) -> Iterator[Ahead[Viewed]]:
        """The views of these next steps, made by threads ahead of them; None: without end."""
        # No more than are used: for one more a process would wait for others that have ended.
        read = Ahead[Batch](islice(self.stream.batches(self.state), steps), BATCHES_AHEAD)
        with contextlib.closing(read) as batches:
            aside = Aside(self.device)
            views = aside.each(islice(self.viewed(batches), steps))
            with contextlib.closing(Ahead[Viewed](views, VIEWS_AHEAD, aside.take)) as viewed:
                yield viewed

    def viewed(self, batches: Ahead[Batch]) -> Iterator[Viewed]:
        """The views of each batch, and where the stream stands after it."""
        while True:
            batch = batches.next()
            needs, start = self.settings.declared.needs, batch.places[0] < self.settings.batch
            captions = self.objective.captions(batch)
            if needs.captions and start and not any(captions):
                raise SluiceError(
                    f"none of the first {len(captions)} samples has a caption, and "
                    f"{self.settings.objective} learns from captions",
                    "check the caption field of these sources, or choose another objective",
                )
            step = int(batch.places.min()) // self.settings.batch
            if self.observer:
                self.observer.read(step, captions)
            with torch.no_grad():
                views = self.objective.views(self.curriculum.weaken(batch, step), self.device)
            yield batch.state, views

    def advance(self, state: Mapping[str, Any], views: Mapping[str, Any]) -> None:
        """One step of the optimizer; `state` is where the stream stands after it."""
        settings, objective = self.settings, self.objective
        share = self.step / settings.steps
        rate = learning_rate(settings, self.step)
        set_step(self.optimizer, rate, objective.weight_decay(share))
        # Dropout and drop path draw from PyTorch's own generator: key it by the step too.
        key = (settings.seed, "step", self.step, *self.ranks.key)
        torch.manual_seed(int(generator(*key).integers(2**62)))
        self.optimizer.zero_grad(set_to_none=True)
        if self.observer:
            self.observer.start(self.logs(self.step + 1))
        low = settings.precision == "bfloat16" and not settings.compile
        with bfloat16.products(self.device.type, low):
            loss, figures = self.gradients(views, share)
        objective.before_update(share)
        self.optimizer.step()
        objective.after_update(share)
        if self.average:
            self.average.update(self.step)
        self.step += 1
        self.state = dict(state)
        if self.logs(self.step):
            self.log(loss, rate, figures)

    def logs(self, step: int) -> bool:
        """Whether metrics.jsonl has a line of this step."""
        return step in (1, self.settings.steps) or step % self.settings.log_every == 0

    def gradients(self, views: Mapping[str, Any], progress: float) -> micro.Told:
        """A pass forth and back; leaves the gradients of the whole batch, over all processes."""
        settings, size = self.settings, self.settings.micro_batch
        samples = settings.batch // self.ranks.count
        if size is None:
            told = micro.whole(self.forward, views, progress, self.autocast)
        elif isinstance(self.objective, Comparing):
            told = micro.cached(self.objective, views, progress, samples, size, self.autocast)
        else:
            told = micro.accumulated(self.forward, views, progress, samples, size, self.autocast)
        trained = self.objective.trained()
        if self.cut:
            self.ranks.average(sharding.scalars(trained))
        elif size is not None:
            self.ranks.average(trained)
        return told

    def autocast(self) -> torch.autocast:
        """The precision of the forward pass.

        Casts of weights are not kept within it: one made without gradient would hide the weight
        from a later use with gradient.
        """
        low = self.settings.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=low, cache_enabled=False)

    def log(self, loss: torch.Tensor, rate: float, figures: dict[str, torch.Tensor]) -> None:
        value, *told = self.ranks.mean([loss, *figures.values()])
        if not math.isfinite(value):
            raise SluiceError(
                f"the loss is {value} at step {self.step} of {self.job.url}",
                "lower lr, lengthen warmup, or set clip_grad",
            )
        line = {
            "step": self.step,
            "samples": self.step * self.settings.batch,
            "loss": value,
            "lr": rate,
            **dict(zip(figures, told, strict=True)),
            **(self.masses() if self.stream.mix.changes else {}),
        }
        self.metrics.append(json.dumps(line))
        self._losses.append(value)
        if self.observer:
            self.observer.line(line)

    def masses(self) -> dict[str, float]:
        """Of each source the share of the samples seen so far."""
        taken = self.state["taken"]
        return {
            f"mass/{digest}": count / sum(taken)
            for digest, count in zip(self.stream.digests, taken, strict=True)
        }

    def save(self) -> None:
        """Copy where the run stands, and begin to write it."""
        order = self.stream.order
        saved = Saved(self.step, dict(self.state), self.metrics, *self.spent(), order)
        loss = sum(self._losses) / len(self._losses) if self._losses else math.nan
        self._losses = []
        pieces = self.ranks if self.cut else Ranks()
        self.writer.write(
            checkpoint.snapshot(self.job.digest, saved, *self.kept(), pieces, loss=loss)
        )

    @contextlib.contextmanager
    def exported(self) -> Iterator[Objective | None]:
        """The objective whose files are to be written: whole, its average where one is kept.

        All processes ask together; others than the first get None.
        """
        if self.average:
            self.average.swap()
        try:
            yield self.whole() if self.ranks.first or self.cut else None
        finally:
            if self.average:
                self.average.swap()

    @torch.no_grad()
    def whole(self) -> Objective | None:
        """The objective with all its weights, in the first process."""
        if not self.cut:
            return self.objective
        state: dict[str, torch.Tensor] = self.objective.state_dict()
        values = {name: sharding.joined(value).cpu() for name, value in state.items()}
        if not self.ranks.first:
            return None
        objective = objectives.build(self.settings)
        objective.load_state_dict(values)
        return objective

    def finish(self, objective: Objective) -> Part:
        """Write the run's files; returns their record."""
        files = [
            filesystem.write_bytes(self.job.url, path, data) for path, data in objective.files()
        ]
        lines = "".join(f"{line}\n" for line in self.metrics).encode()
        files.append(filesystem.write_bytes(self.job.url, METRICS, lines))
        ended = json.dumps({**self.stream.order, "state": dict(self.state)}).encode()
        files.append(filesystem.write_bytes(self.job.url, STREAM, ended))
        return Part(PART, tuple(files), extra=self.summary())

    def summary(self) -> dict[str, Any]:
        """What the run saw and where it ended: a pure function of its inputs."""
        taken = self.state["taken"]
        return {
            "objective": self.settings.objective,
            "steps": self.step,
            "samples": sum(taken),
            "parameters": sum(p.numel() for p in self.objective.trained()),
            "mix": [
                {
                    "source": digest,
                    "share": share,
                    "samples": count,
                    "mass": count / max(sum(taken), 1),
                    "undecodable": skipped,
                }
                for digest, share, count, skipped in zip(
                    self.stream.digests,
                    self.stream.mix.shares(sum(taken)),
                    taken,
                    self.state["skipped"],
                    strict=True,
                )
            ],
            "undecodable": list(self.state["bad"][:NAMED]),
            "final": json.loads(self.metrics[-1]),
        }


def pick_device(name: str) -> torch.device:
    """ "auto" is a GPU where there is one; asking for one where there is none is an error."""
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise SluiceError("device is cuda, but PyTorch sees no GPU here", "set device to auto")
    if not there or name == "cpu":
        return torch.device("cpu")
    # Of several processes on a machine each has a GPU, by the number that its launcher gives it.
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


def claim(device: torch.device) -> torch.device:
    """Make a GPU the one that this process means where it names none, as events and NCCL do."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
