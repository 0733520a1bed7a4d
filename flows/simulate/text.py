"""A forecast as people read it."""

from collections.abc import Sequence

from flows.plan import size
from flows.simulate.forecast import HOUR, Forecast, StageForecast
from flows.store.text import table
from infra.progress import duration

HEADER = ("stage", "on", "rows", "shards", "time", "bound by", "worker hours", "memory", "written")


def forecast_text(found: Forecast, priced: bool) -> str:
    """The table of the stages, the sums, and what to look at."""
    rows = [_row(stage) for stage in found.stages]
    lines = [
        f"a pool of {found.rows:,.0f} rows",
        "",
        table(HEADER, rows, right=range(2, len(HEADER))),
        "",
        f"in all: {long(found.seconds)}, {size(found.bytes)} written"
        + (f", costs {found.cost:,.2f}" if priced else ""),
        f"memory: a worker {size(found.memory)}, the driver {size(found.driver_memory)}",
    ]
    return "\n".join([*lines, *(f"look: {note}" for note in found.notes)])


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


def long(seconds: float) -> str:
    """As `duration`; from two days on in days."""
    return duration(seconds) if seconds < 48 * HOUR else f"{seconds / 24 / HOUR:,.1f} days"
