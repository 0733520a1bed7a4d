"""A crawl over the wall clock: its shards' counts, spread evenly over the time each took."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from infra.charts import Line, Rug, line_chart

BINS = 120
UNITS = ((2 * 86_400, 86_400, "days"), (2 * 3600, 3600, "hours"), (120, 60, "minutes"))

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ShardCrawl:
    """What one shard's statistics say, without its hosts. started: epoch seconds, UTC."""

    name: str
    started: float
    seconds: float
    records: int
    ok: int
    transient: int
    outcomes: dict[str, int]

    @property
    def share(self) -> float:
        """Of the records asked for, how many were downloaded."""
        return self.ok / self.records if self.records else 0.0

    @property
    def day(self) -> str:
        return moment(self.started).split()[0]

    @property
    def time(self) -> str:
        return moment(self.started).split()[1]


@dataclass(frozen=True)
class Pace:
    """How fast it went. busy: seconds in which at least one shard was under way."""

    begin: str
    end: str
    span: float
    busy: float
    rate: float  # images a second, over the busy time
    at_once: float  # shards under way, the mean over the busy time
    charts: Sequence[Markup]


def moment(epoch: float) -> str:
    """Epoch seconds as a date and time of day."""
    return f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%d %H:%M}"


def pace(shards: Sequence[ShardCrawl], outliers: Sequence[ShardCrawl]) -> Pace | None:
    """Figures and charts of all shards; None without any."""
    if not shards:
        return None
    starts = np.array([shard.started for shard in shards])
    ends = starts + np.array([shard.seconds for shard in shards])
    begin, end = float(starts.min()), float(ends.max())
    busy = busy_seconds(starts, ends)
    ok = sum(shard.ok for shard in shards)
    charts = _charts(shards, starts, ends, [shard.started for shard in outliers])
    return Pace(
        moment(begin),
        moment(end),
        end - begin,
        busy,
        ok / busy if busy else 0.0,
        float((ends - starts).sum()) / busy if busy else 0.0,
        charts,
    )


def busy_seconds(starts: Floats, ends: Floats) -> float:
    """The length of the union of the intervals [start, end]."""
    order = np.argsort(starts)
    latest = np.maximum.accumulate(ends[order])
    gaps = np.maximum(starts[order][1:] - latest[:-1], 0)
    return float(latest[-1] - starts.min() - gaps.sum())


def in_bins(starts: Floats, ends: Floats, counts: Floats, edges: Floats) -> Floats:
    """How much of `counts` falls between each two edges, each spread evenly from start to end."""
    length = np.maximum(ends - starts, 1e-3)  # also what took no time happened some time
    done = [float((counts * np.clip((edge - starts) / length, 0, 1)).sum()) for edge in edges]
    return np.diff(done)


def _charts(
    shards: Sequence[ShardCrawl], starts: Floats, ends: Floats, outliers: Sequence[float]
) -> list[Markup]:
    begin, end = float(starts.min()), max(float(ends.max()), float(starts.min()) + 1)
    edges = np.linspace(begin, end, BINS + 1)
    width = (end - begin) / BINS
    ok, transient, records, seconds = (
        in_bins(starts, ends, np.array(counts, np.float64), edges)
        for counts in (
            [shard.ok for shard in shards],
            [shard.transient for shard in shards],
            [shard.records for shard in shards],
            ends - starts,
        )
    )
    unit, name = next(((u, n) for least, u, n in UNITS if end - begin >= least), (1, "seconds"))
    x = ((edges[:-1] + edges[1:]) / 2 - begin) / unit
    when = f"{name} since {moment(begin)} UTC"
    rugs = [Rug("shard out of line", [(at - begin) / unit for at in outliers])] if outliers else []
    asked = np.where(records > 0, records, np.nan)
    speed = [
        Line("images", x, ok / width, 1),
        Line("may pass", x, transient / width, 2),
        Line("failed for good", x, (records - ok - transient) / width, 6),
    ]
    came = [
        Line("images", x, ok / asked, 1),
        Line("may pass", x, transient / asked, 2),
    ]
    work = [Line("shards", x, seconds / width, 3)]
    top = float(max(ok.max(), records.max() - ok.max())) / width
    return [
        line_chart("Speed", speed, when, "records a second", y_range=(0, 1.05 * top)),
        line_chart("What came", came, when, "of what was asked for", rugs=rugs, y_range=(0, 1),
                   percent=True),
        line_chart("Shards under way", work, when, "at once",
                   y_range=(0, 1.1 * float(seconds.max()) / width)),
    ]  # fmt: skip
