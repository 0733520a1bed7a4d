"""The page of a run that goes on: is it healthy, how far, how long, what does it cost.

<store>/status/<run>/index.html    written every few seconds by the process that drives the run
"""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from flows.report.render import fill
from infra import filesystem
from infra.catalogue.notes import PAGES
from infra.filesystem import join
from infra.telemetry.state import RUNNING, RunState, StageState

PAGE = "index.html"
REFRESH = 10.0  # seconds from one page to the next
LINES = 50  # of the log that are shown, the last first
LOSSES = 30


class RunPage:
    """Listens to the events of a run, and writes its page now and then, and at its end.

    steps: the names of all its steps, in order; stored: of those that are there already.
    price: of all its machines, an hour, in whatever money.
    """

    name = "page of the run"

    def __init__(
        self, store: str, run: str, steps: Sequence[str], stored: Sequence[str], price: float | None
    ) -> None:
        self.url = join(store, PAGES, run)
        self.state = RunState()
        self._steps, self._stored, self._price = steps, frozenset(stored), price
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, daemon=True)

    def __call__(self, event: Mapping[str, Any]) -> None:
        with self._lock:
            self.state(event)
        if event["event"] == "run_begin":
            self.write()
            self._thread.start()

    def _keep_writing(self) -> None:
        while not self._stop.wait(REFRESH):
            self.write()

    def write(self) -> None:
        with self._lock:
            text = page(self.state, self._steps, self._stored, self._price, time.time())
        filesystem.write_bytes(self.url, PAGE, text.encode("utf-8", "replace"))
        filesystem.remove_empty(join(self.url, filesystem.TEMPORARY))

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
            self.write()


def page(
    run: RunState,
    steps: Sequence[str],
    stored: frozenset[str],
    price: float | None,
    now: float,
) -> str:
    """How a run stands at `now` (Unix seconds), as HTML."""
    stages = list(run.stages.values())
    names = [*steps, *(stage.name for stage in stages if stage.name not in steps)]
    ended = {stage.name for stage in stages if stage.end is not None}
    return fill(
        "run.html.jinja",
        run=run,
        steps=names,
        stored=stored,
        finished=len(ended | stored),
        current=next((stage for stage in reversed(stages) if stage.end is None), None),
        worries=run.worries(now),
        now=now,
        clock=_clock(now),
        began=_clock(run.begin),
        refresh=int(REFRESH),
        work=sum(stage.work_seconds for stage in stages),
        cpu=sum(stage.cpu_seconds for stage in stages),
        workers=len({worker for stage in stages for worker in stage.workers}),
        written=sum(stage.bytes for stage in stages),
        price=price,
        cost=None if price is None else run.cost(price, now if run.state == RUNNING else None),
        losses=losses(stages),
        lines=[(_clock(at), text) for at, text in list(run.said)[-LINES:][::-1]],
    )


def losses(stages: Sequence[StageState]) -> list[tuple[str, str, int, float]]:
    """Stage, outcome, rows and their share of the stage's, the largest of each stage first."""
    found = [
        (stage.name, outcome, count, count / stage.rows)
        for stage in stages
        for outcome, count in stage.outcomes.most_common()
        if outcome != "kept" and count
    ]
    return found[:LOSSES]


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
