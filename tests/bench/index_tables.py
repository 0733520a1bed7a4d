"""The figures in indexes/README.md: building and asking an index, and the service."""

from collections.abc import Callable
from typing import Any

Rows = dict[str, Callable[[dict[str, Any]], str]]

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


def kinds(found: dict[str, Any]) -> str:
    """Every kind over the same vectors; nothing where none was asked for."""
    size, both = next((size, both) for size, both in found.items() if size.isdigit())
    title = f"{int(size):,} vectors, every kind"
    return "\n".join(table(title, both["kinds"], ROWS)) if "kinds" in both else ""


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
    one, two = workers["seconds"]["1"], workers["seconds"]["2"]
    lines += [
        "",
        f"Two workers on two processors build {workers['vectors']:,} vectors (`auto`) "
        f"{workers['times']} times as fast as one on one: {two:.0f} s instead of {one:.0f} s, the "
        "same bytes.",
    ]
    return "\n".join(lines)


# What stands in the README, and the result that it is made from.
PARTS = {index: "index", kinds: "index", scale: "index_scale", service: "service"}
