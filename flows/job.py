"""What a job on a cluster does: one step, strung together again from what its order says.

python -m flows.job STORE/jobs/NAME/order.json
"""

import os
import sys
import threading
from typing import Any

from pydantic import BaseModel, ConfigDict

from flows import environment
from flows.main import close_training
from flows.origin import Origin
from flows.step import Session, Step
from infra import filesystem
from infra.errors import SluiceError
from infra.progress import duration
from infra.ray_jobs import tell_failure
from infra.runner import make_runner
from infra.telemetry.events import JsonLines, Told

OVERDUE = 70  # the exit code of a job that ended itself


class Order(BaseModel):
    """One step to be made on a cluster: its origin, its name, the digests of what it makes.

    deadline: seconds it may take.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    origin: Origin
    step: str
    digests: dict[str, str]
    workers: int
    deadline: float

    def to_json(self) -> Any:
        return self.model_dump(mode="json", exclude_unset=True)

    def found(self) -> Step:
        """The step, which makes what was ordered and nothing else."""
        step = self.origin.steps().get(self.step)
        digests = step and digests_of(step)
        if step is None or digests != self.digests:
            raise SluiceError(
                f"the cluster's Sluice knows step {self.step!r} as {digests}, it was asked for "
                f"{self.digests}",
                "install the same Sluice on the cluster's nodes as here; if a source has other "
                "files by now, or NAME@latest has moved, run the same command again",
            )
        return step


def digests_of(step: Step) -> dict[str, str]:
    return {name: draft.spec.digest for name, draft in step.drafts.items()}


def main(url: str) -> None:
    """Make the step that is ordered at `url`, on the Ray that runs this job."""
    order = Order.model_validate(filesystem.read_json(url))
    _end_after(order.deadline)
    step = order.found()
    display = Told(order.step, [JsonLines(sys.stdout)])  # whoever follows the log shows it
    with display, make_runner("ray", order.workers, "auto") as runner:
        try:
            step.run(Session(runner, display, "ray", "auto"))
        finally:
            close_training()


def _end_after(seconds: float) -> None:
    """Whoever ordered stops a job that takes too long; this is for one whose orderer has gone."""

    def end() -> None:
        tell_failure(SluiceError(f"the job took longer than {duration(seconds)}, its deadline"))
        os._exit(OVERDUE)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    environment.prepare()
    try:
        main(*sys.argv[1:])
    except SluiceError as error:
        tell_failure(error)
        raise SystemExit(1) from None
