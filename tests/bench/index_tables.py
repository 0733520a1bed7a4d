"""The figures in indexes/README.md: building and asking an index, and the service."""

from collections.abc import Callable
from typing import Any

ROWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "kind": lambda each: str(each["kind"]),
    "build and measure, CPU seconds": lambda each: f"{each['cpu_seconds']:.1f}",
    "queries a second, asked together": lambda each: f"{each['queries_a_second']:,.0f}",
    "recall@10 against brute force": lambda each: f"{each['recall@10']:.4f}",
    "one query, p50 and p99": lambda each: f"{each['p50_ms']:.1f} and {each['p99_ms']:.1f} ms",
    "memory while building": lambda each: f"{each['peak_megabytes'] / 1000:.2f} GB",
}


def index(found: dict[str, Any]) -> str:
    """One table for each size: ours, and autofaiss where it was run."""
    lines = [
        f"{found['what']}; uneven clusters, a tenth near-copies (`tests/bench/index.py`, commit "
        f"{found['commit']})."
    ]
    for size, both in found.items():
        if not size.isdigit():
            continue
        sides = [side for side in ("ours", "autofaiss") if side in both]
        names = {"ours": "Sluice, `auto`", "autofaiss": "autofaiss 2.18"}
        title = f"{int(size):,} vectors, {both['memory']} to spend"
        lines += ["", f"| {title} | {' | '.join(names[side] for side in sides)} |"]
        lines.append("|---" * (len(sides) + 1) + "|")
        for name, cell in ROWS.items():
            lines.append(f"| {name} | {' | '.join(cell(both[side]) for side in sides)} |")
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
