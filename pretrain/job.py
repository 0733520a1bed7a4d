"""A run to do, as it travels to whoever does it. Light: neither PyTorch nor Ray is needed."""

from collections.abc import Callable
from dataclasses import dataclass

from infra.progress import Pulse
from pretrain.data import Source
from pretrain.settings import TrainSettings

WORK = "_work"  # folder of what only an unfinished run needs
PART = "run"  # a run is one part

Progress = Callable[[int, Pulse], None]  # steps done in all, and how it is


@dataclass(frozen=True)
class Job:
    """Where the run is written, its digest, what it learns from, and how."""

    url: str
    digest: str
    settings: TrainSettings
    sources: tuple[Source, ...]
