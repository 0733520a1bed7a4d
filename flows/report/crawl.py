"""The report of a crawl: what came of a table's URLs, how fast, from which hosts, and why not.

Counts of rows are the manifest's. Hosts and times are from the statistics that each shard left
beside it (curation/fetch/observed.py), which are no data and may be missing. These are read one
after the other; what is held is a line for each shard and a bounded number of hosts.
"""

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from curation.fetch.observed import OK, OTHERS, STATISTICS
from curation.outcomes import TRANSIENT
from flows.report.hosts import LIMIT, Hosts
from flows.report.outcome_words import Words, in_words
from flows.report.pace import Pace, ShardCrawl, pace
from flows.report.render import fill
from flows.report.samples import clean, spread
from infra import artifacts, filesystem
from infra.artifacts import Artifact
from infra.dataset import ROWS, read_table, write_table
from infra.errors import SluiceError
from infra.filesystem import join

PAGE, TABLE = "report/crawl.html", "report/hosts.parquet"
BY_RECORDS, BY_FAILURES, BY_DOMAIN, BY_SHARD = 50, 20, 20, 20  # rows of the tables
READERS, WINDOW = 16, 32  # threads, and files read ahead: each is at most about a megabyte
ROWS_FILE = re.compile(r"(?:^|/)rows/[^/]+\.parquet$")
FAR = 0.1  # below the median share of success, at the least, a shard is out of line


@dataclass(frozen=True)
class Loss:
    """One reason why records are no samples. share: of all rows. bar: of the largest count."""

    reason: str
    words: Words
    count: int
    share: float
    bar: float
    transient: bool


@dataclass(frozen=True)
class HostLine:
    """One host or domain as it is shown. wait: seconds from asking to the end, the mean."""

    name: str
    records: int
    failures: int
    share: float
    wait: float
    bytes: int
    main: str
    main_share: float  # of its failures


@dataclass(frozen=True)
class Outlier:
    """A shard that did far worse than most; `cause` is what it had more of than the others."""

    shard: ShardCrawl
    cause: str
    count: int
    usual: float  # the share that this has in the whole crawl


@dataclass(frozen=True)
class Pictures:
    """Sizes of a sample of the images: (what, unit, 5 %, half, 95 %), and shares of formats."""

    images: int
    sizes: Sequence[tuple[str, str, float, float, float]]
    formats: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Asked:
    """What all statistics say together. hosts, domains: as flows.report.hosts.HOSTS.

    lacking: how many records a host may have more than `hosts` says.
    """

    shards: Sequence[ShardCrawl]
    hosts: pa.Table
    domains: pa.Table
    lacking: int
    requests: int
    retries: int
    redirects: int
    bytes: int

    @cached_property
    def outcomes(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for shard in self.shards:
            total.update(shard.outcomes)
        return total

    @property
    def records(self) -> int:
        return sum(self.outcomes.values())

    @property
    def told_apart(self) -> int:
        return named(self.hosts).num_rows

    @property
    def others(self) -> int:
        """Records of hosts that are not told apart."""
        return self.records - sum(named(self.hosts)["records"].to_pylist())

    @property
    def median(self) -> float:
        """The share of success that half of the shards surpass."""
        return float(np.median([shard.share for shard in self.shards if shard.records] or [0]))


@dataclass(frozen=True)
class Crawl:
    """Everything the page shows; rows = kept + again + lost."""

    name: str
    version: str
    rows: int
    kept: int
    again: int  # failures that --retry-failed would fetch again
    lost: int  # all others
    losses: Sequence[Loss]
    stored: int  # bytes of the version
    asked: Asked
    silent_shards: int  # without statistics
    silent_rows: int
    fits: bool  # no shard's statistics tell of more records than it has rows
    pace: Pace | None
    outliers: Sequence[Outlier]
    by_domain: Sequence[HostLine]
    by_failures: Sequence[HostLine]
    by_records: Sequence[HostLine]
    pictures: Pictures | None

    @property
    def shards(self) -> int:
        return len(self.asked.shards) + self.silent_shards

    @property
    def worst(self) -> Sequence[Outlier]:
        return self.outliers[:BY_SHARD]

    def of_all(self, count: int) -> float:
        return count / self.rows if self.rows else 0.0

    @property
    def command(self) -> str:
        return f"prefect run ingest --retry-failed {shlex.quote(f'{self.name}@{self.version}')}"

    @property
    def unasked(self) -> int:
        """Rows, in shards with statistics, that nobody was asked for."""
        return self.rows - self.silent_rows - self.asked.records


def write_crawl_report(version_url: str) -> str:
    """Write `report/crawl.html` and `report/hosts.parquet` beside a version; the page's path.

    Neither is part of the artifact: both may be written again at any time from the version and
    its statistics. Raises SluiceError where there is no committed version.
    """
    artifact = artifacts.load(version_url)
    if artifact is None:
        raise SluiceError(f"there is no dataset version at {version_url}", "ingest it first")
    crawl = collect(artifact)
    write_table(version_url, TABLE, crawl.asked.hosts)
    page = fill("crawl.html.jinja", crawl=crawl, title=f"crawl of {clean(crawl.name)}")
    filesystem.write_bytes(version_url, PAGE, page.encode("utf-8", "replace"))
    filesystem.remove_tree(join(version_url, filesystem.TEMPORARY))
    return join(version_url, PAGE)


def collect(artifact: Artifact, limit: int = LIMIT) -> Crawl:
    """Read what the page needs; at most `limit` hosts are told apart at a time."""
    rows = {part.name: part.rows for part in artifact.parts}
    asked = read_statistics(artifact.url, list(rows), limit)
    found = {shard.name for shard in asked.shards}
    totals = artifact.totals
    again = sum(count for reason, count in totals["dropped"].items() if reason in TRANSIENT)
    name, version = artifact.url.rstrip("/").split("/")[-2:]
    worst = outliers(asked)
    failed = named(asked.hosts).filter(pc.field("failed") > 0)
    by_failures = failed.sort_by([("failed", "descending"), ("host", "ascending")])
    return Crawl(
        name=name,
        version=version,
        rows=totals["rows"],
        kept=totals["kept"],
        again=again,
        lost=totals["rows"] - totals["kept"] - again,
        losses=losses(totals),
        stored=totals["bytes"],
        asked=asked,
        silent_shards=len(rows) - len(found),
        silent_rows=sum(count for part, count in rows.items() if part not in found),
        fits=all(shard.records <= rows[shard.name] for shard in asked.shards),
        pace=pace(asked.shards, [outlier.shard for outlier in worst]),
        outliers=worst,
        by_domain=host_lines(named(asked.domains), BY_DOMAIN),
        by_failures=host_lines(by_failures, BY_FAILURES),
        by_records=host_lines(named(asked.hosts), BY_RECORDS),
        pictures=pictures(artifact),
    )


def losses(totals: Mapping[str, Any]) -> list[Loss]:
    """The reasons of a manifest's totals, the most frequent first."""
    dropped: Mapping[str, int] = totals["dropped"]
    largest = max(dropped.values(), default=1)
    return [
        Loss(
            reason,
            in_words(reason),
            count,
            count / max(totals["rows"], 1),
            count / largest,
            reason in TRANSIENT,
        )
        for reason, count in sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    ]


# ---- statistics ----


def read_statistics(url: str, names: Sequence[str], limit: int = LIMIT) -> Asked:
    """The statistics of these shards; those without a readable file are left out."""
    hosts, shards = Hosts(limit), list[ShardCrawl]()
    sums: Counter[str] = Counter()
    for name, raw in _files(url, names):
        try:
            value = orjson.loads(raw or b"")
        except orjson.JSONDecodeError:
            continue
        hosts.add(value["hosts"])
        sums.update({key: value[key] for key in ("requests", "retries", "redirects", "bytes")})
        outcomes: dict[str, int] = value["outcomes"]
        transient = sum(outcomes.get(reason, 0) for reason in TRANSIENT)
        records, ok = sum(outcomes.values()), outcomes.get(OK, 0)
        shards.append(
            ShardCrawl(name, value["started"], value["seconds"], records, ok, transient, outcomes)
        )
    hosts.finish()
    return Asked(
        shards,
        hosts.hosts.table(),
        hosts.domains.table(),
        hosts.hosts.lacking,
        sums["requests"],
        sums["retries"],
        sums["redirects"],
        sums["bytes"],
    )


def _files(url: str, names: Sequence[str]) -> Iterator[tuple[str, bytes | None]]:
    """The shards' files in order, None for one that is missing; a few are read ahead."""

    def read(name: str) -> bytes | None:
        try:
            return filesystem.read_bytes(join(url, STATISTICS, f"{name}.json"))
        except FileNotFoundError:
            return None

    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(names), WINDOW):
            window = names[start : start + WINDOW]
            yield from zip(window, pool.map(read, window), strict=True)


# ---- hosts ----


def named(hosts: pa.Table) -> pa.Table:
    """Without what is not told apart."""
    return hosts.filter(pc.field("host") != OTHERS)


def host_lines(hosts: pa.Table, count: int) -> list[HostLine]:
    """The first `count` of HOSTS."""
    lines = []
    for host in hosts.slice(0, count).to_pylist():
        main, failed, records = host["main_failure"], host["failed"], host["records"]
        lines.append(
            HostLine(
                clean(host["host"]),
                records,
                failed,
                host["ok"] / records,
                host["seconds"] / records,
                host["bytes"],
                in_words(main).title if main else "",
                dict(host["outcomes"])[main] / failed if main else 0.0,
            )
        )
    return lines


# ---- shards ----


def outliers(asked: Asked) -> list[Outlier]:
    """The shards whose share of success is far below the median, the worst first.

    Far: by FAR, by four standard deviations of the shares (robustly, 1.4826 times the median
    distance), and by four of what chance would do to a shard of this size.
    """
    shards = [shard for shard in asked.shards if shard.records]
    if not shards:
        return []
    middle = asked.median
    spread_out = 1.4826 * float(np.median([abs(shard.share - middle) for shard in shards]))
    found = []
    for shard in shards:
        chance = (middle * (1 - middle) / shard.records) ** 0.5
        if middle - shard.share > max(FAR, 4 * spread_out, 4 * chance):
            found.append(_outlier(shard, asked.outcomes, asked.records))
    return sorted(found, key=lambda outlier: outlier.shard.share)


def _outlier(shard: ShardCrawl, outcomes: Mapping[str, int], records: int) -> Outlier:
    usual = {word: outcomes[word] / records for word in shard.outcomes if word != OK}
    more = {word: shard.outcomes[word] / shard.records - share for word, share in usual.items()}
    cause = max(sorted(more), key=lambda word: more[word])
    return Outlier(shard, in_words(cause).title, shard.outcomes[cause], usual[cause])


# ---- pictures ----


def pictures(artifact: Artifact) -> Pictures | None:
    """Sizes of the images of some whole shards; None where there are none."""
    rows = {
        file.path: part.rows
        for part in artifact.parts
        for file in part.files
        if ROWS_FILE.search(file.path) and part.kept
    }
    columns = ["status", "bytes", "format", "width", "height"]
    tables = [ROWS.empty_table().select(columns)]
    paths = list(rows)
    for place in spread(range(len(paths)), list(rows.values())):
        table = read_table(artifact.path(paths[place]), columns)
        tables.append(table.filter(pc.field("status") == "ok"))
    table = pa.concat_tables(tables)
    if not table.num_rows:
        return None
    sizes = []
    for column, unit in (("width", "pixels"), ("height", "pixels"), ("bytes", "bytes")):
        values = table[column].drop_null().to_numpy()
        if len(values):
            low, half, high = (float(v) for v in np.quantile(values, [0.05, 0.5, 0.95]))
            sizes.append((column, unit, low, half, high))
    formats = Counter(table["format"].to_pylist())
    shares = [(str(name), count / table.num_rows) for name, count in formats.most_common()]
    return Pictures(table.num_rows, sizes, shares)
