"""Does curation help, over three seeds: the recipe `three-seeds`, its differences and interval.

Writes results/seeds.json. With the store of a demo as argument only the further seeds are trained.
Run: python tests/bench/seeds.py [STORE]
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import keep

from flows.main import Options, prepare
from infra import artifacts
from pretrain.evaluate.stage import read_results

RECIPE = "three-seeds"
COMMAND = [str(Path(sys.executable).with_name("prefect")), "run", "evaluate", "--recipe", RECIPE]


def differences(store: str) -> list[dict[str, Any]]:
    """Curated less raw: each seed's difference in accuracy, and their mean with its interval."""
    made = artifacts.load(
        prepare(Options(RECIPE, (), store)).pipeline.steps["evaluation"].draft.url
    )
    assert made is not None
    rows = read_results(made).to_pylist()
    return [row for row in rows if " - " in row["encoder"] or row["metric"].endswith("over_seeds")]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = sys.argv[1] if len(sys.argv) > 1 else f"{folder}/store"
        subprocess.run([*COMMAND, "--store", store], check=True)
        result = {"curated_less_raw": differences(store)}
    keep("seeds", result, "torch", "open_clip_torch")


if __name__ == "__main__":
    main()
