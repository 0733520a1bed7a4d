"""What is known of backbones and objectives: answers of `pretrain.probe`, kept as a file. Light."""

import json
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("capabilities.json")


@cache
def _answers() -> dict[str, dict[str, Any]]:
    """By model."""
    if not FILE.exists():
        return {}
    told = json.loads(FILE.read_text())
    return {family["model"]: family["answers"] for family in told["families"].values()}


def refused(model: object, objective: str) -> str | None:
    """Why `objective` cannot train the timm model; None where it can, or nobody has tried."""
    outcome, reason = _answers().get(str(model), {}).get(objective, ("yes", ""))
    return reason if outcome == "no" else None
