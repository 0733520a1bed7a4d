"""What a run will take, measured before it starts: memory, pace of loader and model, hours.

Real batches of its sources and real steps of its loop, for a few seconds, and one evaluation where
the run is asked as it goes; nothing is written. What the run then took stands in its `speed.json`,
and beside the forecast in the same table.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from infra.errors import SluiceError
from infra.progress import duration
from pretrain.clock import Clock, Spent
from pretrain.data import Source
from pretrain.footprint import PROBES, Given, Memory, fits, measure_memory, rehearsal, size
from pretrain.health import unsuited
from pretrain.loop import BATCHES_AHEAD, VIEWS_AHEAD, Trainer, Viewed, deterministic
from pretrain.online import times_asked
from pretrain.settings import TrainSettings

WARM = 2  # steps before the clock starts
SHARES = [
    (0.02, "hardly ever"),
    (0.07, "a twentieth of the time"),
    (0.15, "a tenth of the time"),
    (0.225, "a fifth of the time"),
    (0.29, "a quarter of the time"),
    (0.42, "a third of the time"),
    (0.58, "half of the time"),
    (0.71, "two thirds of the time"),
    (0.85, "three quarters of the time"),
    (1.0, "nearly all of the time"),
]


@dataclass(frozen=True)
class Rates:
    """Samples a second of one process: each alone, and all together as in the run.

    start: seconds to the first batch, in which a window of shards is read.
    """

    loader: float
    views: float
    model: float
    together: float
    waiting: float  # share of the time, together
    start: float


@dataclass(frozen=True)
class Forecast:
    """What was measured, and of which run and device.

    evaluation: seconds of one (`evaluate_every`), in which all processes wait; 0 without.
    """

    settings: TrainSettings
    device: str
    memory: Memory
    rates: Rates
    evaluation: float = 0.0

    @property
    def seconds(self) -> float:
        samples = self.settings.steps * self.settings.batch
        steps = samples / (self.rates.together * self.settings.workers)
        return steps + self.rates.start + times_asked(self.settings) * self.evaluation


def preflight(settings: TrainSettings, sources: Sequence[Source], seconds: float = 5.0) -> Forecast:
    """Measure for about `seconds` each: the loader, the views, the model, and all together.

    One process is measured, with its share of the batch where `settings.workers` are several. An
    evaluation takes as long as it takes, of the network as it is before the first step.
    SluiceError for whatever the run itself would refuse until its first step is done.
    """
    if seconds <= 0:
        raise SluiceError(f"seconds is {seconds}", "give more than 0")
    own = settings.model_copy(
        update={
            "batch": max(settings.batch // settings.workers, 1),
            "cache_mib": 0,  # as in the first epoch
            "curriculum": None,  # as at its end, where steps are largest
        }
    )
    with deterministic(own.threads):
        memory = measure_memory(own, sources)
        with rehearsal(own, sources) as trainer:
            trainer.ask()  # where the run is, before its first step
            evaluation = sum(each["took"] for each in trainer.online.times)
            rates = measure_rates(trainer, seconds)
        return Forecast(settings, trainer.device.type, memory, rates, evaluation)


def measure_rates(trainer: Trainer, seconds: float) -> Rates:
    """Each part for about `seconds`, with the run's own batch."""
    begin = time.perf_counter()
    stream = trainer.stream.batches(trainer.stream.start())
    batch = next(stream)
    start = time.perf_counter() - begin
    loader = _rate(lambda: len(next(stream).images), seconds, trainer)
    same = trainer.viewed(Given(lambda: batch))  # pyright: ignore[reportArgumentType]
    views = _rate(lambda: (next(same), len(batch.images))[1], seconds, trainer)
    ready = next(same)

    def step() -> int:
        _advance(trainer, ready)
        return len(batch.images)

    for _ in range(WARM):
        step()
    model = _rate(step, seconds, trainer)
    spent = _together(trainer, seconds)
    total = spent.waited + spent.stepped
    together = spent.steps * len(batch.images) / total
    return Rates(loader, views, model, together, spent.waited / total, start)


def _advance(trainer: Trainer, viewed: Viewed) -> None:
    """A step where the schedules start, and as many of them logged, as the run's steps are."""
    first = min(1, trainer.settings.steps - 1)  # the very first one is always logged
    if trainer.step > min(trainer.settings.log_every, trainer.settings.steps - 1):
        trainer.step = first
    trainer.advance(*viewed)


def _rate(work: Callable[[], int], seconds: float, trainer: Trainer) -> float:
    """Samples a second of `work`, which tells how many it has done."""
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds or not count:
        count += work()
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    return count / (time.perf_counter() - begin)


def _together(trainer: Trainer, seconds: float) -> Spent:
    trainer.state = trainer.stream.start()
    with trainer.ahead() as viewed:
        for _ in range(BATCHES_AHEAD + VIEWS_AHEAD):  # what was made ahead says nothing of a pace
            _advance(trainer, viewed.next())
        clock, begin, taken = Clock(trainer.device), time.perf_counter(), 0
        while time.perf_counter() - begin < seconds or taken <= WARM:
            ready = viewed.next()
            clock.got()
            _advance(trainer, ready)
            clock.done()
            taken += 1
            if trainer.logs(trainer.step):
                clock.read()
        clock.read()
        return clock.spent


def verdict(rates: Rates) -> str:
    """Whether steps will wait for data, in words."""
    supply, slow = min((rates.loader, "the loader gives"), (rates.views, "the views give"))
    share = max(1 - supply / rates.model, 0.0)
    words = next(words for most, words in SHARES if share <= most)
    first = (
        f"{slow} {supply:.0f} images a second, the model takes {rates.model:.0f}: "
        f"it will wait {words}"
    )
    if share < SHARES[0][0] and rates.waiting > SHARES[1][0]:
        return f"{first} by itself, but {rates.waiting:.0%} where both share these processors"
    return first


def words(
    forecast: Forecast, measured: Spent | None = None, asking: Sequence[float] = ()
) -> list[str]:
    """The table, a line each; with what the run measured where there is such.

    asking: seconds that each of its evaluations took.
    """
    memory, rates, settings = forecast.memory, forecast.rates, forecast.settings
    exact = memory.measured_at * settings.workers >= settings.batch
    how = "measured" if exact else f"from steps of {PROBES[0]} and {memory.measured_at}"
    lines = [
        f"memory of each process on {forecast.device}: {size(memory.total)}",
        f"  weights {size(memory.weights)}, gradients {size(memory.gradients)}, "
        f"optimizer {size(memory.state)}, activations {size(memory.activations)} ({how}), "
        f"batches ahead {size(memory.waiting)}",
        f"  {fits(memory)}",
        "images a second of each process",
        f"  loader alone {rates.loader:.0f}, views alone {rates.views:.0f}, "
        f"model alone {rates.model:.0f}, all together {rates.together:.0f}",
        f"  {verdict(rates)}",
        f"time: {duration(forecast.seconds)} for {settings.steps} steps of {settings.batch}, "
        f"{duration(rates.start)} of it to the first batch",
    ]
    if times := times_asked(settings):
        lines.append(
            f"  and {duration(times * forecast.evaluation)} to be asked {times} times what it has "
            f"learnt, {duration(forecast.evaluation)} each (evaluate_every)"
        )
    if sign := unsuited(settings, forecast.device):
        lines.append(f"precision: {'; '.join(sign)}")
    if measured is not None and measured.steps:
        own = settings.batch // settings.workers
        peak = f", memory at most {size(measured.peak)}" if measured.peak else ""
        asked = f", asked {len(asking)} times in {duration(sum(asking))}" if asking else ""
        lines.append(f"the run measured: {measured.words(own)}{peak}{asked}")
    return lines
