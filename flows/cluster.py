"""Steps as jobs of a Ray cluster: `run.executor: ray` with a dashboard's address.

A step becomes a job under an id made from the digests of what it makes, so that whoever asks for
the same waits for the same job. Its order lies in the store while it is at work:

<store>/jobs/<name>/order.json      what to make: flows.job reads it on the cluster
<store>/jobs/<name>/watched.json    that somebody waits for it, and who
"""

import contextlib
import os
import re
import shlex
import signal
import socket
import threading
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import FrameType

from flows.job import Order, digests_of
from flows.origin import Origin
from flows.step import Session, Step
from infra import artifacts, filesystem
from infra.artifacts import Artifact
from infra.catalogue.notes import JOBS
from infra.digests import canonical_json, digest
from infra.errors import SluiceError
from infra.filesystem import join
from infra.progress import Display
from infra.ray_jobs import BEAT, UNWATCHED, Job, Jobs, UnreachableError, Watch
from infra.telemetry.relay import Relay

FLOW_RUN = "PREFECT__FLOW_RUN_ID"  # set by Prefect's workers in the processes they start


def owner() -> str:
    """Who waits for the jobs of this process: the flow run it is, or the process itself."""
    return os.environ.get(FLOW_RUN) or f"{socket.gethostname()}-{os.getpid()}"


def job_name(step: Step, store: str) -> str:
    """The same for everybody who asks for the same in the same store, wherever it is run."""
    made = digest([store, digests_of(step), sorted(draft.url for draft in step.drafts.values())])
    return f"sluice-{re.sub('[^a-z0-9]+', '-', step.name.lower())[:40].strip('-')}-{made}"


def as_jobs(steps: Sequence[Step], origin: Origin, display: Display) -> list[Step]:
    """The same steps, of which each is made by a job; jobs that nobody waits for are stopped.

    SluiceError where the cluster does not answer, or not to us.
    """
    jobs, store = Jobs(origin.where.address), origin.store
    names = {job_name(step, store) for step in steps}
    for job in _of_store(jobs, store):
        age, _ = Watch(_folder(store, job.metadata["name"])).look()
        if job.metadata["name"] not in names and age > UNWATCHED:
            jobs.stop(job.id)
            display.say(f"stopped {job.id}, which nobody waits for any more")
    pinned = origin.pinned()
    return [replace(step, run=_Submitted(jobs, pinned, step)) for step in steps]


def release(address: str, store: str, by: str) -> list[str]:
    """Stop the jobs that `by`, which was cancelled, waited for; the ids of those that ran."""
    jobs = Jobs(address)
    mine = [
        job.id
        for job in _of_store(jobs, store)
        if Watch(_folder(store, job.metadata["name"])).look()[1] == by
    ]
    for name in mine:
        jobs.stop(name)
    return mine


def _of_store(jobs: Jobs, store: str) -> Iterable[Job]:
    """The active jobs that work on a store."""
    ours = (job for job in jobs.all() if {"name", "store"} <= job.metadata.keys())
    return [job for job in ours if job.active and job.metadata["store"] == store]


def _folder(store: str, name: str) -> str:
    return join(store, JOBS, name)


@dataclass(frozen=True)
class _Submitted:
    """Makes a step by a job: submits it or finds it at work, and waits for it."""

    jobs: Jobs
    origin: Origin
    step: Step

    def __call__(self, session: Session) -> Mapping[str, Artifact]:
        if self.step.stored:
            return self.step.run(session)
        store = self.origin.store
        name = job_name(self.step, store)
        folder = _folder(store, name)
        Watch(folder).touch(owner())  # before there is a job that could be taken for an orphan
        filesystem.write_bytes(folder, "order.json", canonical_json(self._order().to_json()))
        command = f"python -m flows.job {shlex.quote(join(folder, 'order.json'))}"
        metadata = {"name": name, "store": store, "step": self.step.name, "owner": owner()}
        with _terminable():
            job, new = self.jobs.attach(name, command, metadata)
            session.display.say(
                f"{self.step.name}: job {job.id}" + ("" if new else ", which is at work already")
            )
            try:
                self._wait(job, Watch(folder), session.display)
            except SluiceError:
                if not self.step.stored:  # it may have been committed at the last moment
                    raise
            except BaseException:
                session.display.say(f"{self.step.name}: stopping job {job.id}")
                with contextlib.suppress(UnreachableError):
                    self.jobs.stop(job.id)
                raise
        return self._made(job, folder)

    def _order(self) -> Order:
        where = self.origin.where
        return Order(
            origin=self.origin,
            step=self.step.name,
            digests=digests_of(self.step),
            workers=where.workers,
            deadline=where.deadline,
        )

    def _wait(self, job: Job, watch: Watch, display: Display) -> None:
        touched = time.monotonic()
        for _ in self.jobs.follow(job, Relay(display), self.origin.where.deadline):
            if time.monotonic() - touched > BEAT:
                watch.touch(owner())
                touched = time.monotonic()

    def _made(self, job: Job, folder: str) -> Mapping[str, Artifact]:
        loaded = {name: artifacts.load(draft.url) for name, draft in self.step.drafts.items()}
        made = {name: artifact for name, artifact in loaded.items() if artifact is not None}
        if len(made) < len(loaded):
            raise SluiceError(
                f"job {job.id} ended well, yet {self.step.name!r} is not in the store "
                f"{self.origin.store}",
                "name a store that the cluster's nodes reach under the same URL as this machine",
            )
        filesystem.remove_tree(folder)
        filesystem.remove_empty(join(self.origin.store, JOBS))
        return made


@contextlib.contextmanager
def _terminable() -> Generator[None]:
    """SIGTERM, which would end Python at once, ends it like Ctrl-C, unless somebody handles it."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def end(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
