"""All that looks at a run while the loop goes: clock, features, alarms, loggers.

It changes no byte of the run. The loop calls it, in each process; the first one tells and writes.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import nn

from infra.progress import Pulse
from pretrain import sinks
from pretrain.clock import Clock
from pretrain.data import Ahead
from pretrain.health import PATIENCE, Alarm, Watch, same_captions
from pretrain.job import Job
from pretrain.tap import Tap

T = TypeVar("T")


def to_terminal(alarm: Alarm) -> None:
    """Where somebody watches; the run's folder keeps it anyway."""
    if sys.stderr.isatty():
        print(f"alarm, {alarm}", file=sys.stderr, flush=True)


class Observer:
    """step: after which the run goes on. Loggers are opened here: before the first step."""

    def __init__(
        self,
        job: Job,
        objective: nn.Module,
        device: torch.device,
        step: int,
        first: bool = True,
        tell: Callable[[Alarm], None] = to_terminal,
    ) -> None:
        settings = job.settings
        self._job, self._first, self._tell = job, first, tell
        self._sinks = sinks.open_sinks(settings, job.url, step) if first else []
        self._watch = Watch(int(settings.warmup * settings.steps))
        self._watch.load(job.url, step)
        self._tap = Tap(objective, on=first and not settings.compile)
        self._captions: dict[int, float] = {}
        self._step = step
        self._clock, self._share, self._gpu = Clock(device), 0.0, device.type == "cuda"
        if first:
            self._alarm(self._watch.begin(step, settings, device.type))

    def read(self, step: int, captions: Sequence[str]) -> None:
        """When the batch of a step is there, on whatever thread.

        Captions that several samples share are looked for where such pairs count as negatives.
        """
        settings = self._job.settings
        alike = getattr(settings.options, "same_caption", "negative")
        if self._first and settings.declared.needs.captions and alike == "negative":
            self._captions[step] = same_captions(captions)

    def next(self, batches: Ahead[T]) -> T:
        """The next of these, timed as waiting."""
        item = batches.next(PATIENCE, self._late)
        self._clock.got()
        return item

    def _late(self, seconds: float, alive: bool) -> None:
        if self._first:
            for alarm in self._watch.missing(self._step, seconds, alive):
                self._tell(alarm)

    def start(self, logged: bool) -> None:
        """Before a step; logged: whether `line` comes after it."""
        self._tap.start(logged and self._first)

    def line(self, line: Mapping[str, float]) -> None:
        """With the line of the metrics of a step, whose loss is a number."""
        if not self._first:
            return
        step = int(line["step"])
        waited, stepped = self._clock.read()
        if waited + stepped:
            self._share = waited / (waited + stepped)
        same = self._captions.pop(step - 1, None)
        self._captions = {at: share for at, share in self._captions.items() if at >= step}
        features = self._tap.take(self._job.settings.batch)
        alarms = self._watch.observe(
            step, line["loss"], line, waited, stepped, features, same_captions=same
        )
        told = {**line, **self._watch.figures}
        if waited + stepped:
            told["waiting"] = self._share
        for sink in self._sinks:
            sink.write(step, {name: value for name, value in told.items() if math.isfinite(value)})
        self._alarm(alarms)

    def _alarm(self, alarms: Sequence[Alarm]) -> None:
        for alarm in alarms:
            self._tell(alarm)
            for sink in self._sinks:
                sink.alarm(alarm)

    def asked(self, step: int, figures: Mapping[str, float]) -> None:
        """After the encoder was asked what it has learnt; the seconds of that are no step's."""
        self._clock.skip()
        for sink in self._sinks:
            sink.write(step, figures)

    def done(self) -> None:
        """After each step."""
        self._step += 1
        self._clock.done()

    def pulse(self, note: str) -> Pulse:
        """How the run is, as of the last line of its metrics."""
        use = 1 - self._share if self._gpu and self._clock.spent.peak else 0.0
        return Pulse(note, self._share, use, self._clock.spent.peak)

    def save(self) -> None:
        """Alarms and clocks into the run's folder: with each checkpoint, and at the end."""
        if self._first:
            self._clock.read()
            self._watch.save(self._job.url)
            self._clock.spent.save(self._job.url)

    def close(self) -> None:
        """At the end, and where the run stops."""
        self._tap.close()
        for sink in self._sinks:
            sink.close()
