"""A run asked what it has learnt while it trains: the tasks of `pretrain.evaluate`, every so often.

It changes no byte of the run. The encoder is written aside as the run would leave it, loaded as
that of a finished run is, and asked by one process while the others wait.
"""

import json
import math
import tempfile
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from infra import filesystem
from infra.errors import SluiceError
from infra.filesystem import join
from pretrain import encoders
from pretrain.evaluate import tasks
from pretrain.job import Job
from pretrain.objectives.base import Objective
from pretrain.ranks import Ranks
from pretrain.settings import TrainSettings

ASKED = "evaluations.jsonl"  # in a run's folder, and no part of its content
TIMES = "evaluation_times.jsonl"  # beside it: clocks tell something else each time
LONGEST = timedelta(days=1)  # that other processes wait for the one that asks


class Online:
    """Rows of `ASKED`: step, task, metric, value, ci_low, ci_high, n, seed (of the run).

    step: after which the run goes on. Rows of later ones, which it takes again, are made again.
    Every process has one, and all call it together. Rows of `TIMES`, in the first one: step,
    seconds that the run had taken by then, and seconds that asking took.
    """

    def __init__(self, job: Job, ranks: Ranks, device: torch.device, step: int) -> None:
        self._job, self._device = job, device
        self._settings = job.settings.evaluate
        self._every = job.settings.evaluate_every
        self._ranks = ranks
        if self._every and ranks.count > 1:
            from torch import distributed

            group = distributed.new_group(backend="gloo", timeout=LONGEST)
            self._ranks = Ranks(ranks.rank, ranks.count, group)
        self.rows = _kept(job.url, ASKED, step) if self._every else []
        self.times = _kept(job.url, TIMES, step) if self._every else []

    def due(self, step: int) -> bool:
        """Whether to ask after this step; before the first one, too, so that what cannot be asked
        is known then.
        """
        if not self._every or any(row["step"] == step for row in self.rows):
            return False
        return not self.rows or step == self._job.settings.steps or step % self._every == 0

    def ask(
        self, step: int, objective: Objective | None, seconds: float = 0.0
    ) -> list[dict[str, Any]]:
        """The rows of this step, written by now; the first process alone has an objective.

        seconds: that the run has taken. SluiceError, in every process, where the samples or the
        encoder do not allow a task.
        """
        begin = time.monotonic()
        rows: list[dict[str, Any]] = []
        failure: tuple[str, str] | None = None
        if objective is not None:
            try:
                rows = self._ask(step, objective)
            except SluiceError as error:
                failure = error.what, error.way_out
        failure, rows = self._ranks.told((failure, rows))
        if failure:
            raise SluiceError(*failure)
        self.rows += rows
        if objective is not None:
            took = time.monotonic() - begin
            self.times = [each for each in self.times if each["step"] != step]
            self.times.append({"step": step, "seconds": seconds, "took": took})
            for name, written in ((TIMES, self.times), (ASKED, self.rows)):
                lines = "".join(f"{json.dumps(row)}\n" for row in written)
                filesystem.write_bytes(self._job.url, name, lines.encode())
        return rows

    def _ask(self, step: int, objective: Objective) -> list[dict[str, Any]]:
        asked = self._settings
        with tempfile.TemporaryDirectory(prefix="sluice-online-") as folder, tasks.single_thread():
            for path, data in objective.files():
                file = Path(folder, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
            encoder = encoders.load(folder, device=str(self._device))
            found = tasks.evaluate(encoder, asked.train, asked.test, asked, asked.outside)
        rows = found.rows(asked)
        if not rows:
            raise SluiceError(
                f"evaluate.tasks are {', '.join(asked.tasks)}, and an encoder of "
                f"{self._job.settings.objective} can do none of them",
                "name others, such as knn or linear_probe, or set evaluate_every to 0",
            )
        return [{"step": step, **row, "seed": self._job.settings.seed} for row in rows]

    def words(self) -> str:
        """The last figure of each task, its first metric; empty where nothing was asked."""
        last = [row for row in self.rows if row["step"] == self.rows[-1]["step"]]
        first = {row["task"]: row for row in reversed(last)}
        return ", ".join(f"{row['task']} {row['value']:.3f}" for row in list(first.values())[::-1])


def figures(rows: list[dict[str, Any]]) -> Mapping[str, float]:
    """Rows of one step as loggers take them."""
    return {f"evaluate/{row['task']}/{row['metric']}": row["value"] for row in rows}


def times_asked(settings: TrainSettings) -> int:
    """How often a run is asked: before its first step, every so often, and at its end."""
    every = settings.evaluate_every
    return 1 + -(-settings.steps // every) if every else 0


def took(url: str) -> list[float]:
    """Seconds that each evaluation of the run at `url` took; none where it was not asked."""
    return [row["took"] for row in _kept(url, TIMES)]


def _kept(url: str, name: str, step: float = math.inf) -> list[dict[str, Any]]:
    """The rows of a file of a run that goes on after `step`."""
    if not filesystem.exists(join(url, name)):
        return []
    lines = filesystem.read_bytes(join(url, name)).decode().splitlines()
    return [row for row in map(json.loads, lines) if row["step"] <= step]
