"""The demo as a newcomer runs it: how long, how much memory, what the canaries and the index say.

Runs `prefect run curate-and-pretrain` twice in a fresh store, the second time with nothing
changed, then asks the store. Writes results/demo.json, and flows/rates.json, from which `--plan`
reckons what it cannot measure. Linux only: memory is the sum of all processes' proportional set
sizes, so pages they share count once.
Run: python tests/bench/demo.py [STORE]
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from record import keep

import indexes
from curation.canaries import measure
from flows.main import TARGETS, Options, prepare, stored_artifacts
from flows.plan import RATES, mean_pixels, rate_key, samples_seen
from flows.step import closure
from infra import artifacts, drawn
from pretrain.evaluate.stage import read_results

TARGET = "curate-and-pretrain"
COMMAND = [str(Path(sys.executable).with_name("prefect")), "run", TARGET, "--store"]
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
INTERVAL = 1.0  # seconds between two looks at the memory


def family(root: int) -> list[psutil.Process]:
    """The process, its children, and Ray's, which leave their parent, started since."""
    me = psutil.Process(root)
    born = me.create_time()
    found = {process.pid: process for process in [me, *me.children(recursive=True)]}
    for process in psutil.process_iter():
        try:
            if process.create_time() >= born and "ray" in " ".join(process.cmdline()[:3]):
                found[process.pid] = process
        except psutil.Error:
            continue
    return list(found.values())


def run(store: str) -> dict[str, Any]:
    """One run: wall-clock seconds and the highest memory of all its processes."""
    start, peak = time.monotonic(), 0
    process = subprocess.Popen([*COMMAND, store], stdout=subprocess.DEVNULL)
    done = threading.Event()
    threading.Thread(target=lambda: (process.wait(), done.set()), daemon=True).start()
    while not done.wait(INTERVAL):
        used = 0
        for member in family(process.pid):
            try:
                used += member.memory_full_info().pss
            except psutil.Error:
                continue
        peak = max(peak, used)
    assert process.returncode == 0, process.returncode
    return {"seconds": round(time.monotonic() - start, 1), "peak_gb": round(peak / 1e9, 2)}


def canaries(store: str) -> list[dict[str, Any]]:
    (key,) = Path(store).glob("corpus/*/canaries.parquet")
    (verdicts,) = Path(store).glob("pool/*/verdicts/*")
    parts = [pq.read_table(path) for path in sorted(verdicts.glob("*.parquet"))]
    return measure(pq.read_table(key), pa.concat_tables(parts)).to_pylist()


def digit_hits(store: str) -> dict[str, int]:
    """Of the first ten results for "a handwritten seven", how many are sevens."""
    index = indexes.open(f"{store}/curated")
    return {
        digit: index.search(f"a handwritten {digit}", k=10).to_pandas()["concept"].eq(digit).sum()
        for digit in DIGITS
    }


def evaluation(store: str) -> list[dict[str, Any]]:
    (url,) = Path(store).glob("evaluations/*")
    made = artifacts.load(str(url))
    assert made is not None
    return [row for row in read_results(made).to_pylist() if row["metric"] == "accuracy"]


def rates(store: str) -> dict[str, Any]:
    """Seconds and bytes a row of every stage, for plans; and the mean picture of what looks at
    pixels without a network.
    """
    stages: dict[str, dict[str, float | None]] = {}
    for step in closure(prepare(Options(store=store)).pipeline.steps, TARGETS[TARGET]):
        for made in stored_artifacts(step).values():
            rows = made.totals["rows"] or samples_seen(made.settings)
            key = rate_key(made.manifest["spec"]["stage"], made.settings)
            if key == drawn.STAGE or not rows:
                continue  # costs the same whatever its rows, or has none: no rate
            stages[key] = {
                "seconds": made.timing()["seconds"] / rows,
                "bytes": made.totals["bytes"] / rows,
            }
            if "decode" in made.settings and "model" not in made.settings:
                stages[key]["pixels"] = mean_pixels(made.url.partition("/scores/")[0])
    return stages


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = sys.argv[1] if len(sys.argv) > 1 else f"{folder}/store"
        result = {
            "first": run(store),
            "second": run(store),
            "canaries": canaries(store),
            "digits_of_10": {digit: int(count) for digit, count in digit_hits(store).items()},
            "accuracy": evaluation(store),
        }
        RATES.write_text(json.dumps(rates(store), indent=1) + "\n")
    keep("demo", result, "torch", "ray", "prefect", "faiss-gpu")


if __name__ == "__main__":
    main()
