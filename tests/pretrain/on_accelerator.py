"""Trainings on an accelerator. Run as

    python -m tests.pretrain.on_accelerator <cases.json> <results.json> pretend|cuda|cpu

cases: name -> {settings, source, folder}. Of each: its lines, what was waited for (of `pretend`,
see `tests.accelerator`), and what one comes to that goes on from its checkpoint.
"""

import contextlib
import json
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from pretrain import loop
from pretrain.data import Source
from pretrain.job import Job
from pretrain.loop import Trainer, deterministic
from pretrain.settings import TrainSettings

END = 10  # the step at which a run is broken off; its last checkpoint is older


class BrokenOffError(Exception):
    pass


def train(job: Job, waits: Counter[str]) -> dict[str, Any]:
    """From where the folder stands to step END."""
    trainer = Trainer(job)
    begun = trainer.step

    def stop(step: int, pulse: Any) -> None:
        if step == END:
            raise BrokenOffError

    waits.clear()
    with contextlib.suppress(BrokenOffError):
        trainer.train(stop)
    waited = dict(waits)
    weights = {
        name: value.cpu().double().sum().item()
        for name, value in trainer.objective.state_dict().items()
    }
    files = {path: len(data) for path, data in trainer.objective.files()}
    lines = [json.loads(line) for line in trainer.metrics]
    return {"begun": begun, "waits": waited, "weights": weights, "files": files, "lines": lines}


def outcome(case: dict[str, Any], waits: Counter[str]) -> dict[str, Any]:
    settings = TrainSettings.model_validate(case["settings"])
    job = Job(case["folder"], "digest", settings, (Source(case["source"]),))
    with deterministic(settings.threads):
        return {"found": train(job, waits), "again": train(job, waits)}


def main() -> None:
    cases, results, device = sys.argv[1:]
    waits: Counter[str] = Counter()
    if device == "pretend":
        from tests.accelerator import DEVICE, WAITS

        waits = WAITS
        loop.pick_device = lambda name: DEVICE
    found: dict[str, Any] = {}
    for name, case in json.loads(Path(cases).read_text()).items():
        try:
            found[name] = outcome(case, waits)
        except Exception:
            found[name] = {"error": traceback.format_exc()}
    Path(results).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
