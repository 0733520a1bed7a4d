"""What the simulator knows of sizes that nobody calibrates with: flows/simulate/constants.json.

Made of the kept results of other benchmarks, without measuring anything: how stages of one process
grow beyond their logs, what they and the driver hold in memory.
Run: python tests/bench/constants.py
"""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
CONSTANTS = Path(__file__).parents[2] / "flows/simulate/constants.json"
MB = 2**20


def result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def sizes(figures: dict[str, Any]) -> dict[int, Any]:
    """Those of figures that stand under a number of rows."""
    return {int(key): value for key, value in figures.items() if key.isdigit()}


def curve(figures: dict[str, Any], *keys: str) -> list[tuple[int, float]]:
    """(rows, seconds) of one process; keys: the way to the seconds below each size."""
    found: list[tuple[int, float]] = []
    for rows, value in sorted(sizes(figures).items()):
        for key in keys:
            value = value[key]
        found.append((rows, value))
    return found


def main() -> None:
    pairs, scheduler = result("dedup_memory"), result("scheduler")
    growth = result("index_scale")["growth"]
    rungs = ("bytes and pixels", "hashes", "vectors", "all pairs")
    stages: dict[str, Any] = {
        "duplicate pairs": {
            "from": "dedup_memory.json",
            "bytes_a_row": max(pairs[rung]["bytes_a_row"] for rung in rungs),
            "seconds": curve(pairs["all pairs"], "cpu_seconds"),
        },
        "verdicts": {
            "from": "dedup_memory.json",
            "bytes_a_row": pairs["verdicts"]["bytes_a_row"],
            "seconds": curve(pairs["verdicts"], "cpu_seconds"),
        },
        "selection": {
            "from": "selection_memory.json",
            "bytes_a_row": max(result("selection_memory")["bytes_per_row"].values()),
        },
    }
    for stage in ("index quantizer", "index"):
        stages[stage] = {
            "from": "index_scale.json",
            "seconds": curve(growth, "cpu_seconds_by_stage", stage),
        }
    flat = scheduler["ray, 2 workers"]
    driver = {
        "from": "scheduler.json",
        "bytes": flat["mb_over_the_shards"][0] * MB,
        "bytes_a_part": (flat["mb_at_most"] - flat["mb_over_the_shards"][0]) * MB / flat["shards"],
    }
    CONSTANTS.write_text(json.dumps({"driver": driver, "stages": stages}, indent=1) + "\n")


if __name__ == "__main__":
    main()
