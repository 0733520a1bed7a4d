"""Hosts and domains of a crawl: sums over its shards, in bounded memory."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.fetch.observed import OK, OTHERS
from curation.outcomes import TRANSIENT

LIMIT = 200_000  # names told apart

# Labels under which a country's registry gives out names: a.co.uk, a.com.br, a.or.jp.
SECOND_LEVEL = frozenset(
    ("ac", "co", "com", "edu", "gen", "go", "gob", "gouv", "gov", "ltd", "me", "mil", "ne", "net",
     "nom", "or", "org", "plc", "sch")
)  # fmt: skip

SUMS = pa.schema(
    [
        ("name", pa.string()),
        ("outcome", pa.string()),
        ("records", pa.int64()),
        ("bytes", pa.int64()),  # of the whole host, in the first of its rows
        ("seconds", pa.float64()),  # likewise
    ]
)
HOSTS = pa.schema(
    [
        ("host", pa.string()),  # "(others)": all that are not told apart
        ("domain", pa.string()),
        ("records", pa.int64()),
        ("ok", pa.int64()),
        ("failed", pa.int64()),
        ("transient", pa.int64()),  # failed, but may be there another time
        ("main_failure", pa.string()),
        ("bytes", pa.int64()),
        ("seconds", pa.float64()),  # from asking to the end, summed over records
        ("outcomes", pa.map_(pa.string(), pa.int64())),
    ]
)


def registrable(host: str) -> str:
    """The domain somebody registered, by the look of the name: i.a.com -> a.com.

    No list is asked (https://publicsuffix.org), so that people's pages under one roof, such as
    a.github.io, are one domain. An address is its own.
    """
    *_, last = labels = host.rsplit(".", 3)
    if len(labels) < 3 or last.isdigit() or host.startswith("["):
        return host
    deeper = len(last) == 2 and labels[-2] in SECOND_LEVEL
    return ".".join(labels[-3:] if deeper else labels[-2:])


def sums_of(hosts: Mapping[str, Mapping[str, Any]]) -> pa.Table:
    """The `hosts` of one shard's statistics (Observed.to_json) as SUMS."""
    names, outcomes = list[str](), list[str]()
    records, sizes, seconds = list[int](), list[int](), list[float]()
    for name, host in hosts.items():
        size, wait = host["bytes"], host["seconds"]
        for outcome, count in host["outcomes"].items():
            names.append(name)
            outcomes.append(outcome)
            records.append(count)
            sizes.append(size)
            seconds.append(wait)
            size, wait = 0, 0.0
    return pa.table([names, outcomes, records, sizes, seconds], schema=SUMS)


def by_domain(sums: pa.Table) -> pa.Table:
    """The same sums, by domain."""
    names = sums["name"].combine_chunks().dictionary_encode()
    domains = pa.array([registrable(name) for name in names.dictionary.to_pylist()], pa.string())
    return sums.set_column(0, "name", domains.take(names.indices))


class Tally:
    """Sums by name and outcome; where there are more than `limit` names, the smallest are given up.

    They are summed in `rest`. A name that was given up and comes again starts from nothing, so a
    name may lack records, but never more than `lacking`.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.lacking = limit, 0
        self.sums, self.rest = SUMS.empty_table(), SUMS.empty_table()
        self._new: list[pa.Table] = []

    @property
    def waiting(self) -> int:
        """Rows that are not summed yet."""
        return sum(table.num_rows for table in self._new)

    def add(self, sums: pa.Table) -> None:
        self._new.append(sums)

    def fold(self) -> pa.Table:
        """Sum up what was added; what was given up for it, as SUMS."""
        sums = _summed(pa.concat_tables([self.sums, *self._new]))
        self._new = []
        given_up = pc.field("name").isin(self._smallest(sums))
        gone, self.sums = sums.filter(given_up), sums.filter(~given_up)
        others = gone.set_column(0, "name", pa.array([OTHERS] * gone.num_rows, pa.string()))
        self.rest = _summed(pa.concat_tables([self.rest, others]))
        return gone

    def _smallest(self, sums: pa.Table) -> pa.Array:
        """The names to be given up: none, or all but half of `limit`; OTHERS always."""
        sizes = sums.filter(pc.field("name") != OTHERS).group_by("name", use_threads=False)
        ranked = sizes.aggregate([("records", "sum")]).sort_by(
            [("records_sum", "descending"), ("name", "ascending")]
        )
        if ranked.num_rows <= self.limit:
            return pa.array([OTHERS])
        gone = ranked.slice(self.limit // 2)
        self.lacking += gone["records_sum"][0].as_py()
        return pa.array([*gone["name"].to_pylist(), OTHERS])

    def table(self) -> pa.Table:
        """Every name, as HOSTS, the largest first; at the end those that were given up."""
        return pa.concat_tables([_wide(self.sums), _wide(self.rest)])


class Hosts:
    """The hosts of all shards, and their domains; a host given up still counts for its domain."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.hosts, self.domains = Tally(limit), Tally(limit)

    def add(self, hosts: Mapping[str, Mapping[str, Any]]) -> None:
        """Take in the `hosts` of one shard's statistics."""
        self.hosts.add(sums_of(hosts))
        if self.hosts.waiting > self.hosts.limit:
            self._fold()

    def finish(self) -> None:
        """After the last shard: the hosts that are left count for their domains, too."""
        self._fold()
        self.domains.add(by_domain(self.hosts.sums))
        self.domains.fold()

    def _fold(self) -> None:
        self.domains.add(by_domain(self.hosts.fold()))
        self.domains.fold()


def _summed(sums: pa.Table) -> pa.Table:
    # On one thread, the order of the groups is that of the rows.
    groups = sums.group_by(["name", "outcome"], use_threads=False)
    summed = groups.aggregate([(name, "sum") for name in SUMS.names[2:]])
    return summed.rename_columns(SUMS.names)


def _wide(sums: pa.Table) -> pa.Table:
    """SUMS -> HOSTS."""
    ordered = sums.sort_by([("records", "descending"), ("outcome", "ascending")])
    columns = [
        ("outcome", "list"),
        *((name, "sum") for name in SUMS.names[2:]),
        ("records", "list"),
    ]
    groups = ordered.group_by("name", use_threads=False).aggregate(columns)
    outcomes = [
        list(zip(words, counts, strict=True))
        for words, counts in zip(
            groups["outcome_list"].to_pylist(), groups["records_list"].to_pylist(), strict=True
        )
    ]
    ok = [sum(count for word, count in pairs if word == OK) for pairs in outcomes]
    again = [sum(count for word, count in pairs if word in TRANSIENT) for pairs in outcomes]
    main = [next((word for word, _ in pairs if word != OK), None) for pairs in outcomes]
    records = groups["records_sum"].to_pylist()
    names = groups["name"].to_pylist()
    table = pa.table(
        [
            names,
            [registrable(name) for name in names],
            records,
            ok,
            [count - came for count, came in zip(records, ok, strict=True)],
            again,
            main,
            groups["bytes_sum"].to_pylist(),
            groups["seconds_sum"].to_pylist(),
            outcomes,
        ],
        schema=HOSTS,
    )
    return table.sort_by([("records", "descending"), ("host", "ascending")])
