"""Write the README's tables of figures from results/*.json, between their markers.

Run: python tests/bench/tables.py
"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"


def load(name: str) -> dict[str, Any]:
    return json.loads((HERE / "results" / f"{name}.json").read_text())


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


def killed() -> str:
    found = load("kill")
    moments = [kill["after"] for kill in found["kills"]]
    return (
        f"Killed {len(moments)} times (SIGKILL to the whole process group, {min(moments):.0f} to "
        f"{max(moments):.0f} s after its start) and started again, the demo leaves the same bytes "
        f"in {found['artifacts'] - len(found['differing'])} of {found['artifacts']} artifacts, "
        f"{len(found['unfinished'])} unfinished files and "
        f"{sum(len(kill['processes_left']) for kill in found['kills'])} processes "
        "(`tests/bench/kill.py`)."
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


def place(text: str, name: str, table: str) -> str:
    """`text` with `table` between <!-- name --> and <!-- /name -->."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n{table}\n{end}{after}"


if __name__ == "__main__":
    README.write_text(place(README.read_text(), "demo", demo()))
