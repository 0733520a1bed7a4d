"""What every benchmark keeps beside its figures, and where: results/NAME.json."""

import json
import os
import platform
import subprocess
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
