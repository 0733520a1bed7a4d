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
def _families() -> dict[str, dict[str, Any]]:
    """By model: image_size, answers."""
    if not FILE.exists():
        return {}
    told = json.loads(FILE.read_text())
    return {family["model"]: family for family in told["families"].values()}


@contextlib.contextmanager
def unheeded() -> Generator[None]:
    """Within it nothing is known, so that a step is tried whatever a step has told before."""
    token = _heeded.set(False)
    try:
        yield
    finally:
        _heeded.reset(token)


def refused(model: str, objective: str, image_size: int) -> str | None:
    """Why `objective` cannot train the timm model; None where it can, or nobody has tried.

    A reason that speaks of pixels holds for images of the size it was found with.
    """
    told = _families().get(model)
    if told is None or not _heeded.get():
        return None
    outcome, reason = told["answers"].get(objective, ("yes", ""))
    elsewhere = "pixels" in reason and image_size != told["image_size"]
    return reason if outcome == "no" and not elsewhere else None
