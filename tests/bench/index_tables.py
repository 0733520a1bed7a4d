"""The figures in indexes/README.md: building and asking an index, and the service."""

from collections.abc import Callable
from typing import Any

Rows = dict[str, Callable[[dict[str, Any]], str]]
K = 10  # results that every query asked for
TARGET = 0.99  # recall@10 that the builds aimed at: the default of index.recall_target

ROWS: Rows = {
    "kind": lambda each: str(each["kind"]),
    "build and measure, CPU seconds": lambda each: f"{each['cpu_seconds']:.1f}",
    "queries a second, asked together": lambda each: f"{each['queries_a_second']:,.0f}",
    "recall@10 against brute force": lambda each: f"{each['recall@10']:.4f}",
    "one query, p50 and p99": lambda each: f"{each['p50_ms']:.1f} and {each['p99_ms']:.1f} ms",
    "memory while building": lambda each: f"{each['peak_megabytes'] / 1000:.2f} GB",
}


def table(title: str, columns: dict[str, dict[str, Any]], rows: Rows) -> list[str]:
    """The lines of a table: a column for each set of figures, by its name."""
    lines = [f"| {title} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, cell in rows.items():
        lines.append(f"| {name} | {' | '.join(cell(each) for each in columns.values())} |")
    return lines


def index(found: dict[str, Any]) -> str:
    """One table for each size: ours, and autofaiss where it was run."""
    lines = [
        f"{found['what']}; uneven clusters, a tenth near-copies (`tests/bench/index.py`, commit "
        f"{found['commit']})."
    ]
    for size, both in found.items():
        if not size.isdigit():
            continue
        names = {"ours": "Sluice, `auto`", "autofaiss": "autofaiss 2.18"}
        columns = {name: both[side] for side, name in names.items() if side in both}
        title = f"{int(size):,} vectors, {both['memory']} to spend"
        lines += ["", *table(title, columns, ROWS)]
    return "\n".join(lines)


def service(found: dict[str, Any]) -> str:
    """What a server and its clients do on one machine."""
    paced, crowd = found["paced"], found["crowd"]
    many = next(each for each in found["again_and_again"] if each["connections"] == 16)
    return (
        f"Over {found['index']['vectors']:,} vectors, server and clients on the same two cores "
        f"(`tests/bench/service.py`, commit {found['commit']}): {paced['asked_a_second']} vector "
        f"queries a second are answered with p50 {paced['p50_ms']:.0f} and p99 "
        f"{paced['p99_ms']:.0f} ms by {paced['server_cores']:.1f} cores of server; 16 clients that "
        f"ask again at once get {many['a_second']:,.0f} a second; of {crowd['clients']:,} clients "
        f"at once, who ask five times each, {crowd['lost']} answers are lost "
        f"({crowd['a_second']:,.0f} a second)."
    )


def looked_into(each: dict[str, Any]) -> str:
    """How far a query looks: lists, or vectors of a graph in view; and what it compares then."""
    if each["kind"] == "flat":
        return "all"
    lists, probes = each["lists"], each["probes"]
    where = f"{probes:,} of {lists:,} lists" if lists else f"{probes:,} in view"
    return f"{where}, {K * each['factor']} compared" if each["factor"] > 1 else where


def recall(each: dict[str, Any]) -> str:
    """Of new queries; and what the build itself found, where it was short of the target."""
    found = min(each["recall@10 measured"].values())
    missed = f" ({found:.3f} when built, misses {TARGET})" if found < TARGET else ""
    return f"{each['recall@10']:.4f}{missed}"


KIND_COLUMNS: Rows = {
    "kind": lambda each: f"`{each['kind']}`",
    "bytes a vector": lambda each: f"{each['bytes_a_vector']:,.0f}",
    "build and measure, CPU seconds": lambda each: f"{each['cpu_seconds']:.0f}",
    "memory while building": lambda each: f"{each['peak_megabytes'] / 1000:.2f} GB",
    "looked into": looked_into,
    "recall@10": recall,
    "queries a second": lambda each: f"{each['queries_a_second']:,.0f}",
    "one query, p50": lambda each: f"{each['p50_ms']:.1f} ms",
    "when to take it": lambda each: WHEN[each["kind"]],
}
WHEN = {
    "flat": "`auto` does up to 20,000 vectors, and for a recall of 1",
    "ivf_flat": "`auto` does where stored vectors are remote and a copy fits into memory",
    "ivf_sq8": "`auto` does wherever else a byte a dimension fits into memory",
    "ivf_pq": "no reason here: a little smaller than `ivf_rabitq`, and slower",
    "ivf_rabitq": "`auto` does where a byte a dimension does not fit",
    "hnsw": "no reason here: larger than `ivf_sq8`, slower to build, and no faster",
}


def kinds(found: dict[str, Any]) -> str:
    """A row for every kind over the same vectors, a table for each size."""
    lines = [
        f"Every kind over the same vectors: {found['what']}, target of recall@10 {TARGET} "
        f"(`tests/bench/index.py --kinds`, commit {found['commit']}; one build each beside other "
        "work on the machine: times are rough, CPU seconds less so). The bytes are those of the "
        "index; all kinds read the stored vectors, too, 2 bytes a dimension: `flat` every one for "
        "each query, the others those they compare. `hnsw` is built on one thread, so that its "
        "bytes do not depend on the machine."
    ]
    for size, measured in found.items():
        if size.isdigit():
            lines += ["", f"{int(size):,} vectors:", "", *by_row(measured["kinds"], KIND_COLUMNS)]
    return "\n".join(lines)


def by_row(figures: dict[str, dict[str, Any]], columns: Rows) -> list[str]:
    """The lines of a table: a row for each set of figures."""
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for each in figures.values():
        lines.append(f"| {' | '.join(cell(each) for cell in columns.values())} |")
    return lines


SIZE_ROWS: Rows = {
    "CPU microseconds a vector": lambda each: f"{each['microseconds_a_vector']:.0f}",
    "seconds on two workers": lambda each: f"{each['seconds']:.0f}",
    "most memory": lambda each: f"{each['peak_megabytes'] / 1000:.2f} GB",
    "lists, probes, factor": lambda each: f"{each['lists']:,}, {each['probes']}, {each['factor']}",
    "recall@10 measured": lambda each: f"{min(each['recall@10'].values()):.3f}",
    "seconds to open in a new process, then to the first hits": lambda each: (
        f"{each['seconds_to_open']['open']:.1f} and {each['seconds_to_open']['first_hits']:.1f}"
    ),
}


def scale(found: dict[str, Any]) -> str:
    """Cost and memory by size, and what a second worker is worth."""
    growth, workers = found["growth"], found["workers"]
    sizes = {size: each for size, each in growth.items() if size.isdigit()}
    lines = [
        f"As it grows: `{growth['kind']}`, {growth['memory']} to spend "
        f"(`tests/bench/index_scale.py`, commit {found['commit']}).",
        "",
        *table("vectors", {f"{int(size):,}": each for size, each in sizes.items()}, SIZE_ROWS),
    ]
    lines += [
        f"\n{int(size):,} were built at commit {each['commit']}, beside {each['beside']}."
        for size, each in sizes.items()
        if "beside" in each
    ]
    one, two = workers["seconds"]["1"], workers["seconds"]["2"]
    lines += [
        "",
        f"Two workers on two processors build {workers['vectors']:,} vectors (`auto`) "
        f"{workers['times']} times as fast as one on one: {two:.0f} s instead of {one:.0f} s, the "
        "same bytes.",
    ]
    return "\n".join(lines)


# What stands in the README, and the result that it is made from.
PARTS = {index: "index", kinds: "index_kinds", scale: "index_scale", service: "service"}
