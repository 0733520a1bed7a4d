"""What is known of backbones and objectives: answers of `pretrain.probe`, kept as a file. Light."""

import contextlib
import json
from collections.abc import Generator
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

_heeded = ContextVar("heeded", default=True)
FILE = Path(__file__).with_name("capabilities.json")


@cache
def _answers() -> dict[str, dict[str, Any]]:
    """By model."""
    if not FILE.exists():
        return {}
    told = json.loads(FILE.read_text())
    return {family["model"]: family["answers"] for family in told["families"].values()}


@contextlib.contextmanager
def unheeded() -> Generator[None]:
    """Within it nothing is known, so that a step is tried whatever a step has told before."""
    token = _heeded.set(False)
    try:
        yield
    finally:
        _heeded.reset(token)


def refused(model: object, objective: str) -> str | None:
    """Why `objective` cannot train the timm model; None where it can, or nobody has tried."""
    if not _heeded.get():
        return None
    outcome, reason = _answers().get(str(model), {}).get(objective, ("yes", ""))
    return reason if outcome == "no" else None
