"""How long the commands that must answer at once take: wall-clock seconds, best and median.

Promised on two cores: 3 s by `python -m flows`, 6 s by `prefect run`. With a store as argument,
`report` and `explain` are measured on what is in it.
Run: python tests/bench/startup.py [STORE]
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import keep

PREFECT = Path(sys.executable).with_name("prefect")
REPEATS = 5
ENTRIES = {"python -m flows": [sys.executable, "-m", "flows"], "prefect run": [str(PREFECT), "run"]}


def commands(store: str) -> dict[str, list[str]]:
    chosen = {
        "--help": ["--help"],
        "--plan": ["curate-and-pretrain", "--plan", "--store", store],
        "--plan of an empty store": ["curate-and-pretrain", "--plan", "--store", f"{store}-none"],
    }
    latest = Path(store, "curated", "latest")
    if latest.exists():
        import pyarrow.parquet as pq

        rows = Path(store, "curated", latest.read_text(), "rows", "00000.parquet")
        uid = pq.read_table(rows, columns=["uid"])["uid"][0].as_py()
        chosen["report"] = ["report", "--store", store]
        chosen["explain"] = ["explain", uid, "--store", store]
    return chosen


def measure(command: list[str]) -> dict[str, float]:
    values = {**os.environ, "PREFECT_PLUGINS_ENABLED": "true"}
    seconds = []
    for _ in range(REPEATS + 1):  # the first warms the page cache
        start = time.perf_counter()
        subprocess.run(command, env=values, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return {
        "best": round(min(seconds[1:]), 2),
        "median": round(statistics.median(seconds[1:]), 2),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = sys.argv[1] if len(sys.argv) > 1 else str(Path(folder, "store"))
        report = {
            "what": f"wall-clock seconds, {REPEATS} runs",
            **{
                entry: {name: measure([*start, *rest]) for name, rest in commands(store).items()}
                for entry, start in ENTRIES.items()
            },
            "load": round(os.getloadavg()[0], 1),
        }
    keep("startup", report, "prefect", "cyclopts", "duckdb")


if __name__ == "__main__":
    main()
