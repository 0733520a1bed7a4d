"""A stage: work over shards that leaves committed artifacts, resumable at every shard.

    drafts = {"": Draft(url, spec)}                   what to make, by name
    work(item, todo) -> {name: Part}                  one shard's parts, files already written

A draft whose manifest exists is not made again; a part already recorded is not done again.
Work must be a pure function of its item and of what the spec names, so that doing a part
twice writes the same bytes twice.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra import artifacts
from infra.artifacts import Artifact, Part, Spec
from infra.progress import Display
from infra.runner import Runner

Work = Callable[[Any, list[str]], Mapping[str, Part]]


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
    """What travels to a worker: does the work, then records the parts it left."""

    work: Work
    urls: Mapping[str, str]

    def __call__(self, entry: tuple[Item, list[str]]) -> int:
        item, todo = entry
        start, cpu = time.monotonic(), time.process_time()
        parts = self.work(item.value, todo)
        seconds, cpu_seconds = time.monotonic() - start, time.process_time() - cpu
        for name, part in parts.items():
            share = len(parts)
            artifacts.record_part(self.urls[name], part, seconds / share, cpu_seconds / share)
        return max((part.rows for part in parts.values()), default=0)


def run_stage(
    title: str,
    drafts: Mapping[str, Draft],
    items: Sequence[Item],
    work: Work,
    runner: Runner,
    display: Display,
    extra: Callable[[Mapping[str, list[Part]]], Mapping[str, Mapping[str, Any]]] | None = None,
) -> dict[str, Artifact]:
    """Make every draft that is not there yet and return all artifacts, by name.

    `extra` maps the parts of each draft to figures of the whole for its manifest.
    """
    made: dict[str, Artifact] = {}
    missing: dict[str, set[str]] = {}
    for name, draft in drafts.items():
        artifact = artifacts.load(draft.url)
        if artifact is not None:
            made[name] = artifact
        else:
            missing[name] = set(artifacts.recorded_parts(draft.url))
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
    task = _Task(work, {name: drafts[name].url for name in missing})
    rows = 0
    for _, count in runner.map(task, entries):
        rows += count
        line.advance(1, f"{rows} rows")
    figures = {}
    if extra is not None:
        figures = extra(
            {
                name: [part for part, _ in artifacts.recorded_parts(drafts[name].url).values()]
                for name in missing
            }
        )
    for name in missing:
        draft = drafts[name]
        made[name] = artifacts.commit(draft.url, draft.spec, figures.get(name))
    line.finish(f"{rows} rows")
    return made
