"""Rules, sweeps and the greedy choice over many rows, against plain NumPy for the same rules.

One core, CPU seconds, memory beside the input. Run: python tests/bench/decisions.py
"""

import resource
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from record import keep

from curation.curves import sweep
from curation.dedup import NEAR_RUNG, Pairs, greedy
from curation.preview import preview
from curation.rules import apply_rules
from curation.rules_settings import RuleSettings
from curation.top import value_at

ROWS, COLUMNS, RULES = 10_000_000, 30, 10
NODES, PAIRS = 2_000_000, 5_000_000
BOUND = 0.01


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return round(time.process_time() - start, 2)


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def plain(table: pa.Table) -> np.ndarray:
    """The same rules as a matrix of booleans, with nothing said about reasons."""
    arrays = [column.to_numpy() for column in table.columns]
    failed = [arrays[3 * i] * arrays[3 * i + 1] < BOUND for i in range(RULES)]
    return np.stack(failed, axis=1).any(axis=1)


def top_of(table: pa.Table) -> float | None:
    """The threshold of DataComp's top 30 % of one column."""
    return value_at(lambda: [table.column(0).to_numpy().astype(np.float64)], 0.3)


def main() -> None:
    rng = np.random.default_rng(0)
    table = pa.table({f"s.c{i}": rng.random(ROWS, dtype=np.float32) for i in range(COLUMNS)})
    rules = [
        RuleSettings(
            reason=f"r{i}", score=f"c{3 * i} * c{3 * i + 1}", min=BOUND, max=None, drop=None
        )
        for i in range(RULES)
    ]
    before = peak_gigabytes()
    seconds = {"rules": cpu_seconds(lambda: apply_rules(rules, table))}
    memory = round(peak_gigabytes() - before, 2)
    seconds["plan_of_rules"] = cpu_seconds(lambda: preview(rules, [table]))
    seconds["top_30_percent"] = cpu_seconds(lambda: top_of(table))
    seconds["sweep_100"] = cpu_seconds(lambda: sweep(rules[0], table, 100))
    seconds["rules_plain_numpy"] = cpu_seconds(lambda: plain(table))
    low, high = np.sort(rng.integers(0, NODES, (2, PAIRS)), axis=0)
    pairs = low[low < high], high[low < high]
    similarity = rng.random(len(pairs[0]), dtype=np.float32)
    rank = rng.permutation(NODES)
    graph = Pairs(*pairs, similarity, np.full(len(similarity), NEAR_RUNG))
    seconds["greedy"] = cpu_seconds(lambda: greedy(graph, rank))
    report = {
        "what": "CPU seconds on one core",
        "sizes": {"rows": ROWS, "columns": COLUMNS, "rules": RULES, "nodes": NODES, "pairs": PAIRS},
        "seconds": seconds,
        "rules_gigabytes_beside_the_columns": memory,
    }
    keep("decisions", report, "duckdb", "numpy", "pyarrow")


if __name__ == "__main__":
    main()
