"""20 steps of each objective against recorded losses: a change of the numbers must be meant.

After a change that is meant, `SLUICE_UPDATE_GOLDEN=1 pytest tests/pretrain/test_golden.py`
records anew; raise `pretrain.run.CODE` with it.

Networks with batch norms have low learning rates in `small/`: at those of their papers the last
bit, which differs between processors, becomes a tenth of the loss within these steps.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pretrain import options
from pretrain.data import Source
from pretrain.job import Job
from pretrain.loop import Trainer, deterministic

GOLDEN = Path(__file__).with_name("golden")
TOLERANCE = 2e-3  # relative: processors round differently, and 20 steps carry it on


@pytest.mark.parametrize("objective", options.names())
def test_twenty_steps_give_the_recorded_losses(
    objective: str, pairs: str, small: Callable[..., Any], tmp_path: Path
) -> None:
    settings = small(objective)
    with deterministic(settings.threads):
        trainer = Trainer(Job(str(tmp_path), "golden", settings, (Source(pairs),)))
        trainer.train(lambda step, note: None)
    lines = [json.loads(line) for line in trainer.metrics]
    # An accuracy over eight samples jumps where two similarities nearly tie.
    found = {
        name: [line[name] for line in lines] for name in lines[0] if not name.endswith("accuracy")
    }
    assert found["step"] == list(range(1, 21))
    file = GOLDEN / f"{objective}.json"
    if os.environ.get("SLUICE_UPDATE_GOLDEN"):
        file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    expected = json.loads(file.read_text())
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=TOLERANCE, abs=1e-6), name
