"""A stage: work over shards that leaves committed artifacts, resumable at every shard.

    drafts = {"": Draft(url, spec)}                   what to make, by name
    work(item, todo) -> {name: Part}                  one shard's parts, files already written

A draft whose manifest exists is not made again; a part already recorded is not done again.
Work must be a pure function of its item and of what the spec names, so that doing a part
twice writes the same bytes twice.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from infra import artifacts, feeding
from infra.artifacts import Artifact, Part, Spec
from infra.errors import PauseError, SluiceError
from infra.filesystem.retries import TALLY
from infra.memory import forget_peak, peak
from infra.progress import Display, Done, duration
from infra.runner import LostError, Runner, lent

PAUSES = (15.0, 30.0, 60.0, 120.0, 300.0, 600.0)  # seconds, one after the other without progress

Work = Callable[[Any, list[str]], Mapping[str, Part]]
Extra = Callable[[Mapping[str, Sequence[Part]]], Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Draft:
    """An artifact to be: where, and what."""

    url: str
    spec: Spec


@dataclass(frozen=True)
class Item:
    """One unit of work: `name` is its part's name, `value` what the work function takes."""

    name: str
    value: Any


@dataclass(frozen=True)
class _Task:
    """What travels to a worker: does the work, then records the parts it left.

    workers: how many have nothing else to do, so that an item may use the processors of them all.
    gpu: the work uses a GPU where there is one.
    """

    title: str
    work: Work
    urls: Mapping[str, str]
    workers: int
    gpu: bool

    def __call__(self, entry: tuple[Item, list[str]]) -> Done:
        item, todo = entry
        begin, start, cpu = time.time(), time.monotonic(), time.process_time()
        asked = TALLY.retries.total()
        forget_peak()
        feeding.forget()
        try:
            with lent(self.workers):
                parts = self.work(item.value, todo)
        except Exception as error:
            error.add_note(
                f"in {self.title!r}, item {item.name}, for {', '.join(self.urls.values())}"
            )
            raise
        seconds, cpu_seconds = time.monotonic() - start, time.process_time() - cpu
        left = {name: part.name for name, part in parts.items()}
        if left != dict.fromkeys(todo, item.name):
            raise SluiceError(
                f"{self.title!r} left parts {left} of item {item.name}, asked for {todo}",
                "this is a defect of the stage; please report it with this message",
            )
        share = len(parts)
        for name, part in parts.items():
            artifacts.record_part(self.urls[name], part, seconds / share, cpu_seconds / share)
        longest = max(parts.values(), key=lambda part: part.rows)
        size = sum(file.bytes for part in parts.values() for file in part.files)
        return Done(
            item.name, longest.rows, longest.kept, longest.dropped, size,
            begin, seconds, cpu_seconds, f"{socket.gethostname()}:{os.getpid()}",
            TALLY.retries.total() - asked, peak(), *feeding.told(seconds, self.gpu),
        )  # fmt: skip


def run_stage(
    title: str,
    drafts: Mapping[str, Draft],
    items: Sequence[Item],
    work: Work,
    runner: Runner,
    display: Display,
    extra: Extra | None = None,
    gpu: bool = False,
) -> dict[str, Artifact]:
    """Make every draft that is not there yet and return all artifacts, by name.

    `extra` maps the parts of each draft to figures of the whole for its manifest. gpu: the work
    uses a GPU where there is one.
    """
    made: dict[str, Artifact] = {}
    missing: dict[str, set[str]] = {}
    for name, draft in drafts.items():
        artifact = artifacts.load(draft.url)
        if artifact is not None:
            made[name] = artifact
            artifacts.clean_after_kill(draft.url)
        else:
            missing[name] = artifacts.recorded_names(draft.url)
    if not missing:
        return made
    entries = []
    for item in items:
        todo = [name for name, done in missing.items() if item.name not in done]
        if todo:
            entries.append((item, todo))
    line = display.stage(title, len(items))
    if len(entries) < len(items):
        line.advance(len(items) - len(entries), "resumed")
    idle = max(runner.workers // max(len(entries), 1), 1)
    task = _Task(title, work, {name: drafts[name].url for name in missing}, idle, gpu)
    rows = 0
    try:
        for done in _finished(task, entries, runner, display, gpu):
            rows += done.rows
            line.advance(1, f"{rows} rows", done)
        committed = _commit(drafts, missing, {item.name for item in items}, extra)
    except SluiceError:
        # Another run may have made the same thing at the same time, and swept up after itself.
        rival = {name: artifacts.load(drafts[name].url) for name in missing}
        committed = {name: artifact for name, artifact in rival.items() if artifact}
        if len(committed) < len(missing):
            raise
    line.finish(_summary(max((each.totals for each in committed.values()), key=_rows)))
    return made | committed


def _rows(totals: Mapping[str, Any]) -> int:
    return totals["rows"]


def _summary(totals: Mapping[str, Any]) -> str:
    dropped = sum(totals["dropped"].values())
    return f"{totals['rows']} rows" + (f", {dropped} of them rejected" if dropped else "")


def _finished(
    task: _Task,
    entries: Sequence[tuple[Item, list[str]]],
    runner: Runner,
    display: Display,
    gpu: bool,
) -> Iterator[Done]:
    """What came of each item, as it ends; what a PauseError cut short is done after a pause."""
    left = {item.name: (item, todo) for item, todo in entries}
    pauses = iter(PAUSES)
    while left:
        batch = list(left.values())
        try:
            for index, done in runner.map(task, batch, gpu=gpu):
                del left[batch[index][0].name]
                pauses = iter(PAUSES)
                yield done
        except PauseError as error:
            seconds = next(pauses, None)
            if seconds is None:
                raise
            display.say(f"{task.title}: paused for {duration(seconds)}: {error}")
            time.sleep(seconds)
        except LostError as error:
            name = batch[error.index][0].name
            raise SluiceError(
                f"{task.title!r}, item {name} was lost {error.losses} times: {error.why}",
                error.way_out,
            ) from error


def _commit(
    drafts: Mapping[str, Draft],
    missing: Mapping[str, Set[str]],
    items: Set[str],
    extra: Extra | None,
) -> dict[str, Artifact]:
    """Commit each missing draft, provided that its parts are those of the items.

    missing: the parts each had before, by name.
    """
    # By name, not by a list: that of some stores lags behind what was just written.
    recorded = {name: artifacts.recorded_parts(drafts[name].url, items) for name in missing}
    for name, found in recorded.items():
        url = drafts[name].url
        alien = missing[name] - items
        if (alien or len(found.parts) < len(items)) and artifacts.load(url) is None:
            raise SluiceError(
                f"the parts recorded at {url} are not those of this run's {len(items)} items",
                "remove that folder and run the same command again",
            )
    figures = extra({name: found.parts for name, found in recorded.items()}) if extra else {}
    committed = {
        name: artifacts.commit(
            drafts[name].url, drafts[name].spec, figures.get(name), found, sweep=False
        )
        for name, found in recorded.items()
    }
    # Only now: a rival that trips over our sweeping shall find all manifests in place.
    for name in recorded:
        artifacts.clean(drafts[name].url)
    return committed
