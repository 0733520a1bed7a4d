"""What every benchmark keeps beside its figures, and where: results/NAME.json."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def keep(name: str, figures: dict[str, Any], *packages: str) -> None:
    """Write and print the figures with commit, machine and the packages' versions."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=RESULTS, capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    setting = {
        "commit": commit,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "versions": {package: version(package) for package in packages},
    }
    text = json.dumps(setting | figures, indent=1)
    RESULTS.joinpath(f"{name}.json").write_text(text + "\n")
    print(text)


def merged(paths: Sequence[str], parts: str) -> dict[str, Any]:
    """Figures that several commands wrote on one machine; of the same part the later ones count.

    parts: the field of a mapping, by whose names they differ.
    """
    found = [json.loads(Path(path).read_text()) for path in paths]
    common = [{name: value for name, value in each.items() if name != parts} for each in found]
    if any(each != common[0] for each in common):
        sys.exit("these are of several machines, versions, data or times; keep those of one")
    return {
        **common[0],
        parts: {name: told for each in found for name, told in each[parts].items()},
    }
