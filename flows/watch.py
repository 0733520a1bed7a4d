"""Who is told of a run while it goes on: a page, metrics, traces, a log of events."""

import contextlib
import secrets
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TextIO

from flows.recipe import ExecutionSettings
from flows.report.run_page import RunPage
from flows.step import Step
from infra import filesystem
from infra.errors import SluiceError
from infra.progress import Display, Several
from infra.telemetry.events import JsonLines, Listener, Told
from infra.telemetry.metrics import Metrics
from infra.telemetry.traces import Traces


@contextlib.contextmanager
def watched(
    where: ExecutionSettings, store: str, target: str, steps: Sequence[Step], shown: Display
) -> Generator[Display]:
    """A display that shows a run and tells of it to all that the recipe's `run` names."""
    run = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{target}-{secrets.token_hex(3)}"
    stored = [step.name for step in steps if step.stored]
    listeners: list[Listener] = []
    if len(stored) < len(steps):  # else there is nothing to watch
        page = RunPage(store, run, [step.name for step in steps], stored, where.price)
        shown.say(f"how it stands: {filesystem.join(page.url, 'index.html')}")
        listeners.append(page)
    if where.metrics:
        metrics = Metrics()
        shown.say(f"metrics: {metrics.serve(where.metrics)}")
        listeners.append(metrics)
    if where.traces:
        listeners.append(Traces())
    if where.events:
        listeners.append(JsonLines(_file(where.events)))
    told = Told(run, listeners)
    with Several([shown, told]) as both:
        told.tell("run_begin", target=target, store=store)
        try:
            yield both
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            state = "cancelled" if stopped else "failed"
            told.tell("run_end", state=state, error=str(error) or type(error).__name__)
            raise
        told.tell("run_end", state="completed", error=None)


def _file(path: str) -> TextIO:
    """The file that events are added to; "-" is standard error."""
    if path == "-":
        return sys.stderr
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return Path(path).open("a", encoding="utf-8")
    except OSError as error:
        raise SluiceError(
            f"run.events: cannot write {path}: {error.strerror}", "name another file, or -"
        ) from error
