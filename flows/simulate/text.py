"""A forecast as people read it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from flows.plan import size
from flows.simulate.forecast import BETWEEN, MATTERS, OPEN, Forecast, StageForecast, long
from flows.store.text import table

HEADER = ("stage", "on", "rows", "shards", "time", "bound by", "worker hours", "memory", "written")
WAYS_OUT = {
    "one process": "more machines do not help; where it says (shards), larger shards do",
    "workers": "more of them help",
    "driver": "larger shards help",
    "store": "a faster one helps",
    "training": "more machines are the recipe's to use",
    BETWEEN: "reading what is there, planning, publishing",
}


def forecast_text(found: Forecast, priced: bool) -> str:
    """What it takes, what bounds it, the table of the stages, and what to look at."""
    rows = [_row(stage) for stage in found.stages]
    return "\n".join([
        f"a pool of {found.rows:,.0f} rows in {found.shards:,} shards",
        f"takes {long(found.seconds)}" + (f" and costs {found.cost:,.2f}" if priced else "")
        + f", writes {size(found.bytes)}",
        f"memory: a worker {size(found.memory)}, the driver {size(found.driver_memory)}",
        "",
        *_bounds(found),
        "",
        table(HEADER, rows, right=(2, 3, 4, 6, 7, 8)),
        *(["", *(f"look: {note}" for note in found.notes)] if found.notes else []),
    ])  # fmt: skip


def _bounds(found: Forecast) -> Iterator[str]:
    """A line for each thing that bounds stages, the longest first, with those that matter."""
    groups: dict[str, list[StageForecast]] = defaultdict(list)
    for stage in found.stages:
        groups[stage.bound].append(stage)
    times = {bound: sum(each.seconds for each in held) for bound, held in groups.items()}
    times[BETWEEN] = found.other
    total = max(found.seconds, 1e-9)
    for bound in sorted(times, key=lambda each: -times[each]):
        if times[bound] < MATTERS * total:
            continue
        stages = sorted(groups[bound], key=lambda each: -each.seconds)
        named = [
            f"{each.name} {long(each.seconds)}{_of(each)}"
            for each in stages
            if each.seconds > MATTERS * total
        ]
        share = f"{100 * times[bound] / total:3.0f} %  {long(times[bound]):>14}"
        yield f"{share}  {bound}: {WAYS_OUT[bound]}"
        yield from (f"{'':23}{each}" for each in named)


def _of(stage: StageForecast) -> str:
    """What most of its work is taken for."""
    if stage.bound not in ("one process", "workers"):
        return ""
    return " (unsure, see below)" if stage.most > OPEN * stage.least else f" ({stage.taken_for})"


def _row(stage: StageForecast) -> Sequence[str]:
    return (
        stage.name,
        stage.group,
        f"{stage.rows:,.0f}" if stage.rows else "-",
        f"{stage.shards:,}" if stage.shards else "-",
        long(stage.seconds),
        stage.bound,
        f"{stage.worker_hours:,.1f}",
        size(stage.memory) if stage.memory else "-",
        size(stage.bytes) if stage.bytes else "-",
    )
