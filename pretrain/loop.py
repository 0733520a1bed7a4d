"""The training loop: plain PyTorch on one process, the same bytes wherever it is started.

On a CPU every step is a pure function of the settings and the step's number: threads are fixed,
algorithms deterministic, random numbers keyed by position, and a checkpoint holds the rest.
"""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from infra import artifacts, filesystem
from infra.artifacts import Part
from infra.digests import generator
from infra.errors import SluiceError
from pretrain import checkpoint, objectives
from pretrain.average import Average
from pretrain.backbones import checkpoint_blocks
from pretrain.checkpoint import Saved
from pretrain.compiled import Compiled
from pretrain.data import Ahead, Batch, Stream
from pretrain.job import PART, Job, Progress
from pretrain.objectives.base import Objective
from pretrain.optimizers import learning_rate, make_optimizer, set_step

METRICS = "metrics.jsonl"
BATCHES_AHEAD = 2  # decoded before they are turned into views
VIEWS_AHEAD = 1  # made before the step that needs them: they are several times larger
Viewed = tuple[Mapping[str, Any], Mapping[str, Any]]  # where the stream stands, and views


def run(job: Job, progress: Progress) -> Part:
    """Train from the last checkpoint, if any, to the end; write the files and record the part."""
    recorded = artifacts.recorded_parts(job.url)
    if PART in recorded:  # a worker that died between its last file and its last word
        return recorded[PART][0]
    with deterministic(job.settings.threads):
        trainer = Trainer(job)
        if trainer.step:
            progress(trainer.step, "resumed")
        trainer.train(progress)
        part = trainer.finish()
    artifacts.record_part(job.url, part, *trainer.spent())
    return part


@contextlib.contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """A fixed number of threads and reproducible algorithms; all is given back afterwards."""
    before = torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict)


class Trainer:
    """A run in progress."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.settings = job.settings
        self._start = time.monotonic(), time.process_time()
        self.device = pick_device(self.settings.device)
        self.stream = Stream(
            job.sources,
            batch=self.settings.batch,
            canvas=self.settings.canvas_size,
            shuffle=self.settings.shuffle,
            seed=self.settings.seed,
            cache_mib=self.settings.cache_mib,
            threads=self.settings.threads,
            texts=self.settings.declared.needs.meta,
        )
        # Convolutions are a third faster on channels-last weights, on a CPU too.
        self.objective = objectives.build(self.settings).to(self.device)
        self.objective.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.objective.train()
        if self.settings.grad_checkpointing:
            checkpoint_blocks(self.objective)
        self.forward = Compiled(self.objective) if self.settings.compile else self.objective
        self.optimizer = make_optimizer(self.objective, self.settings)
        self.average = None
        if self.settings.ema is not None:
            self.average = Average(self.objective, self.settings.ema)
        saved = checkpoint.load_checkpoint(job.url, job.digest, *self.kept())
        saved = saved or Saved(0, self.stream.start(), [])
        self.step, self.state, self.metrics = saved.step, saved.stream, list(saved.metrics)
        self._before = saved.seconds, saved.cpu_seconds

    def kept(self) -> tuple[Objective, torch.optim.Optimizer, Mapping[str, torch.Tensor] | None]:
        """What a checkpoint holds, beside the place."""
        return self.objective, self.optimizer, self.average.tensors if self.average else None

    def spent(self) -> tuple[float, float]:
        """Seconds and CPU-seconds on this run, those before the last checkpoint included."""
        seconds = time.monotonic() - self._start[0] + self._before[0]
        return seconds, time.process_time() - self._start[1] + self._before[1]

    def train(self, progress: Progress) -> None:
        batches = Ahead(self.stream.batches(self.state), BATCHES_AHEAD)
        viewed = Ahead(self.viewed(batches), VIEWS_AHEAD)
        try:
            while self.step < self.settings.steps:
                self.advance(*viewed.next())
                progress(self.step, f"loss {json.loads(self.metrics[-1])['loss']:.3f}")
                due = self.step % self.settings.checkpoint_every == 0
                if due and self.step < self.settings.steps:
                    self.save()
        finally:
            viewed.close()
            batches.close()

    def viewed(self, batches: Ahead[Batch]) -> Iterator[Viewed]:
        """The views of each batch, and where the stream stands after it."""
        while True:
            batch = batches.next()
            needs, start = self.settings.declared.needs, batch.places[0] == 0
            if needs.captions and start and not any(batch.captions):
                raise SluiceError(
                    f"none of the first {len(batch.captions)} samples has a caption, and "
                    f"{self.settings.objective} learns from captions",
                    "check the caption field of these sources, or choose another objective",
                )
            with torch.no_grad():
                views = self.objective.views(batch, self.device)
            yield batch.state, views

    def advance(self, state: Mapping[str, Any], views: Mapping[str, Any]) -> None:
        """One step of the optimizer; `state` is where the stream stands after it."""
        settings, objective = self.settings, self.objective
        share = self.step / settings.steps
        rate = learning_rate(settings, self.step)
        set_step(self.optimizer, rate, objective.weight_decay(share))
        # Dropout and drop path draw from PyTorch's own generator: key it by the step too.
        torch.manual_seed(int(generator(settings.seed, "step", self.step).integers(2**62)))
        with self.autocast():
            loss, figures = self.forward(views, share)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        objective.before_update(share)
        self.optimizer.step()
        objective.after_update(share)
        if self.average:
            self.average.update(self.step)
        self.step += 1
        self.state = dict(state)
        if self.step == 1 or self.step % settings.log_every == 0 or self.step == settings.steps:
            self.log(loss, rate, figures)

    def autocast(self) -> torch.autocast:
        """The precision of the forward pass.

        Casts of weights are not kept within it: one made without gradient would hide the weight
        from a later use with gradient.
        """
        low = self.settings.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=low, cache_enabled=False)

    def log(self, loss: torch.Tensor, rate: float, figures: dict[str, torch.Tensor]) -> None:
        value = loss.item()
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
            **{name: figure.item() for name, figure in figures.items()},
        }
        self.metrics.append(json.dumps(line))

    def save(self) -> None:
        saved = Saved(self.step, dict(self.state), self.metrics, *self.spent())
        checkpoint.save_checkpoint(self.job.url, self.job.digest, saved, *self.kept())

    def finish(self) -> Part:
        """Write the run's files; returns their record."""
        if self.average:
            self.average.apply()
        self.objective.eval()
        files = [
            filesystem.write_bytes(self.job.url, path, data)
            for path, data in self.objective.files()
        ]
        lines = "".join(f"{line}\n" for line in self.metrics).encode()
        files.append(filesystem.write_bytes(self.job.url, METRICS, lines))
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
                    self.stream.shares,
                    taken,
                    self.state["skipped"],
                    strict=True,
                )
            ],
            "undecodable": list(self.state["bad"]),
            "final": json.loads(self.metrics[-1]),
        }


def pick_device(name: str) -> torch.device:
    """ "auto" is a GPU where there is one; asking for one where there is none is an error."""
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise SluiceError("device is cuda, but PyTorch sees no GPU here", "set device to auto")
    return torch.device("cuda" if there and name != "cpu" else "cpu")
