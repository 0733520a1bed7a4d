"""Write the READMEs' tables of figures from results/*.json, between their markers.

Run: python tests/bench/tables.py
"""

import json
from pathlib import Path
from typing import Any

import curation_tables
import index_tables
import pretrain_tables

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"


def load(name: str) -> dict[str, Any]:
    return json.loads((HERE / "results" / f"{name}.json").read_text())


def is_kept(name: str) -> bool:
    return (HERE / "results" / f"{name}.json").is_file()


def demo() -> str:
    found = load("demo")
    first, second = found["first"], found["second"]
    hits = found["digits_of_10"].values()
    cores = found["machine"]["cores"]
    lines = [
        f"The demo on {cores} cores without a GPU (`tests/bench/demo.py`, commit "
        f"{found['commit']}): {first['seconds']:.0f} s and {first['peak_gb']} GB over all "
        f"processes; again with nothing changed, {second['seconds']:.0f} s. Of the first ten "
        f'results for "a handwritten seven" and the other digits, {min(hits)} to {max(hits)} '
        "are right.",
        "",
        "| planted defect | planted | recall | precision |",
        "|---|---|---|---|",
    ]
    for row in sorted(found["canaries"], key=lambda row: -row["planted"]):
        name = row["defect"].replace("_", " ")
        lines.append(
            f"| {name} | {row['planted']} | {row['recall']:.3f} | {row['precision']:.3f} |"
        )
    lines += ["", "| encoder | zero-shot | k-NN | linear probe |", "|---|---|---|---|"]
    accuracy: dict[str, dict[str, str]] = {}
    for row in found["accuracy"]:
        text = f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
        accuracy.setdefault(row["encoder"], {})[row["task"]] = text
    for encoder, tasks in accuracy.items():
        cells = (tasks.get(task, "-") for task in ("zero_shot", "knn", "linear_probe"))
        lines.append(f"| {encoder} | {' | '.join(cells)} |")
    lines += [
        "",
        "Accuracy on the held-out split, 95 % intervals. `clip` saw curated pairs, `clip-raw` as "
        "many samples of the pool as it came; one seed. " + seeds(),
        "",
        killed(),
        "",
        startup(),
    ]
    return "\n".join(lines)


def seeds() -> str:
    rows = {
        row["task"]: f"{row['value']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]"
        for row in load("seeds")["curated_less_raw"]
        if row["metric"] == "accuracy_over_seeds"
    }
    return (
        "Over three seeds (`tests/bench/seeds.py`, `--recipe three-seeds`, 96,000 samples "
        "seen) curated less raw is "
        f"{rows['zero_shot']} zero-shot, {rows['knn']} k-NN and {rows['linear_probe']} with a "
        "linear probe."
    )


WHAT_DIED = {
    "connection": "times the store's connections",
    "machine": "times all processes",
    "node": "nodes of a Ray cluster",
    "run": "times the driving process",
    "worker": "workers",
}


def killed() -> str:
    found = load("kill")
    kinds = ", ".join(f"{count} {WHAT_DIED[kind]}" for kind, count in found["by_kind"].items())
    return (
        f"The demo's recipe, small, on an S3-compatible store, was hit {found['kills']} times at "
        f"random in {found['runs']} runs ({kinds}) and started again where it died: each run left "
        f"the same bytes in all of its {found['artifacts']} artifacts, no sample was lost or "
        f"doubled, no process was left, and gc cleared the rest (`tests/bench/kill.py`)."
    )


def startup() -> str:
    found = load("startup")
    worst = {
        entry: max(figures["median"] for figures in found[entry].values())
        for entry in ("python -m flows", "prefect run")
    }
    return (
        "`--plan`, `report` and `explain` answer within "
        f"{worst['python -m flows']:.1f} s by `python -m flows` and {worst['prefect run']:.1f} s "
        "by `prefect run` (`tests/bench/startup.py`)."
    )


def ingest() -> str:
    found = load("ingest")
    sizes, memory = found["sizes"], found["memory"]
    lines = [
        f"Against {found['peer']}, {sizes['workers']} processes each on "
        f"{found['machine']['cores']} cores, JPEGs of {sizes['side']} pixels from nginx on "
        f"loopback, beyond start-up; medians of {sizes['runs']} runs (`tests/bench/ingest.py`, "
        f"commit {found['commit']}).",
        "",
        "| work | CPU-seconds for 1,000 | of the peer's | images a second | times the peer's |",
        "|---|---|---|---|---|",
    ]
    names = {"store": "bytes as they are", "crop": f"center crop {sizes['side']}, quality 95"}
    for mode, figures in found["modes"].items():
        ours, ratio = figures["ours"], figures["ratio"]
        lines.append(
            f"| {names[mode]} | {ours['cpu_seconds_per_1000']:.2f} | "
            f"{ratio['cpu_seconds_per_1000']:.2f} | {ours['images_per_second']:,.0f} | "
            f"{ratio['images_per_second']:.2f} |"
        )
    crop = found["modes"]["crop"]
    lines += [
        "",
        f"Start-up: {crop['ours']['start_up_seconds']:.1f} s and "
        f"{crop['ours']['start_up_cpu_seconds']:.1f} CPU-seconds, without Prefect; the peer's "
        f"{crop['img2dataset']['start_up_seconds']:.1f} s and "
        f"{crop['img2dataset']['start_up_cpu_seconds']:.1f}. A worker takes "
        f"{memory['peak_mb_of_a_worker']} MB, its child process included, on the first "
        f"{memory['shards_fetched']} shards of a table of {memory['rows']:,} rows.",
    ]
    return "\n".join(lines)


def tars() -> str:
    found = load("tars")
    shares = ", ".join(
        f"{each['ingest']:.2f} at {found['sizes'][name]} pixels"
        for name, each in found["of_the_limit"].items()
    )
    return (
        "Existing tars give rows, statistics and hashes at this share of the speed of reading and "
        f"hashing them with nothing else: {shares} (`tests/bench/tars.py`)."
    )


def place(text: str, name: str, table: str) -> str:
    """`text` with `table` between <!-- name --> and <!-- /name -->."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n{table}\n{end}{after}"


if __name__ == "__main__":
    FETCH = README.parent / "curation" / "fetch" / "README.md"
    README.write_text(place(README.read_text(), "demo", demo()))
    CURATION = FETCH.parents[1] / "README.md"
    CURATION.write_text(place(CURATION.read_text(), "measured", curation_tables.measured()))
    FETCH.write_text(place(FETCH.read_text(), "ingest", f"{ingest()}\n\n{tars()}"))
    PRETRAIN = README.parent / "pretrain" / "README.md"
    kept = json.loads(PRETRAIN.with_name("capabilities.json").read_text())
    PRETRAIN.write_text(place(PRETRAIN.read_text(), "backbones", pretrain_tables.backbones(kept)))
    there = {name: load(name) for name in pretrain_tables.LEARNING if is_kept(name)}
    PRETRAIN.write_text(place(PRETRAIN.read_text(), "learning", pretrain_tables.learning(there)))
    taught = pretrain_tables.reinforced(load("reinforce")) if is_kept("reinforce") else ""
    PRETRAIN.write_text(place(PRETRAIN.read_text(), "reinforce", taught))
    speed = pretrain_tables.speed(load("train"))
    PRETRAIN.write_text(place(PRETRAIN.read_text(), "speed", speed))
    fast = pretrain_tables.gpu(load("train_gpu")) if is_kept("train_gpu") else ""
    PRETRAIN.write_text(place(PRETRAIN.read_text(), "gpu", fast))
    INDEXES = README.parent / "indexes" / "README.md"
    for part, result in index_tables.PARTS.items():
        table = part(load(result))
        INDEXES.write_text(place(INDEXES.read_text(), part.__name__, table))
