"""Training through Ray Train: a worker is replaced when it dies, and goes on from the checkpoint.

The loop knows nothing of Ray, and its bytes are the same without. A worker takes some ten
seconds of processor time to start, most of it imports, so it is kept: one Ray Train session
serves the runs of a process one after the other, and a second one is opened only where two
runs ask at once. Jobs, progress and outcomes pass over a desk, an actor of Ray, so the driver
and the worker need to share nothing but the store.

Of several workers that share every batch the first one speaks with the desk. Ray Train starts all
of them anew when one dies, fewer where there is no room for as many, and so does a failure.
"""

import contextlib
import os
import pickle
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from infra import filesystem
from infra.errors import SluiceError
from infra.progress import Pulse, duration
from infra.ray_pool import patience
from infra.ray_runner import start_ray
from pretrain.desk import LOOK, Desk, State, greeting
from pretrain.job import Job, Progress

TELL = 0.5  # seconds between two words of the worker
CLOSING = 10.0  # seconds a session may take to end
LACK = 60.0  # seconds without one after which it is said, and again after so many more
# Quiet, at home: no usage reports, no warnings about older interfaces, no change of folder.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
# One machine is preempted whole, or not at all: no process needs to watch for it.
LOCAL_ENVIRONMENT = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}


Say = Callable[[str], object]


def serve(config: dict[str, Any]) -> None:
    """The body of a worker: jobs until the desk closes. A SluiceError is final, not retried."""
    from ray.exceptions import RayActorError

    from pretrain.ranks import joined

    desk, ranks = config["desk"], joined()
    try:
        with greeting(desk):
            _serve(desk, ranks)
    except (_AbandonedError, RayActorError):  # nobody waits any more, or the desk is gone
        if ranks.count > 1:
            raise  # the others wait for this one


def _serve(desk: Any, ranks: Any) -> None:
    import ray

    from pretrain.loop import run

    while True:
        mine: Any = ray.get(desk.take.remote(os.getpid())) if ranks.first else None
        data = ranks.told(mine)
        if data is None:
            return
        job: Job = pickle.loads(data)
        failure = None
        try:
            run(job, _teller(desk, job.settings.steps))
        except SluiceError as error:
            failure = (error.what, error.way_out)
        if ranks.first or failure:
            ray.get(desk.finish.remote(failure))
        if failure and ranks.count > 1:
            raise SluiceError(*failure)  # likewise


class _AbandonedError(Exception):
    """Nobody waits for this run: stop; its checkpoint stays."""


def _teller(desk: Any, steps: int) -> Progress:
    import ray

    last = 0.0

    def progress(step: int, pulse: Pulse) -> None:
        nonlocal last
        if time.monotonic() - last >= TELL or step == steps:
            last = time.monotonic()
            if not ray.get(desk.tell.remote(step, pulse)):
                raise _AbandonedError

    return progress


class Session:
    """A Ray Train run of one worker, or of several, that serves jobs until it is closed."""

    def __init__(self, gpu: bool, max_failures: int, count: int, local: bool) -> None:
        import ray

        self.kind = (gpu, max_failures, count, local, _cluster())
        self.busy = True
        self.workers: set[int] = set()  # every process that was at a job of this session
        self._gpu, self._max_failures, self._count, self._local = gpu, max_failures, count, local
        self._error: BaseException | None = None
        self._desk: Any = ray.remote(Desk).options(num_cpus=0).remote()
        # Ray Train takes over Ctrl-C when it runs in the main thread; ours shall keep it.
        self._thread = threading.Thread(target=self._fit, daemon=True)
        self._thread.start()

    def _fit(self) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig

        # TorchTrainer's base. One worker forms no process group, and TorchTrainer would load
        # PyTorch here and in its controller: 700 MB and four seconds each.
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

        kind = DataParallelTrainer
        if self._count > 1:
            from ray.train.v2.torch.torch_trainer import TorchTrainer

            kind = TorchTrainer

        prefix = "sluice-train-"
        with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as storage:
            trainer = kind(
                serve,
                train_loop_config={"desk": self._desk},
                scaling_config=ScalingConfig(
                    num_workers=1 if self._count == 1 else (1, self._count),
                    use_gpu=self._gpu,
                    resources_per_worker={"CPU": 1},
                ),
                run_config=RunConfig(
                    name="sluice",
                    storage_path=storage,
                    failure_config=FailureConfig(max_failures=self._max_failures),
                ),
            )
            try:
                trainer.fit()
            except BaseException as error:
                self._error = error

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def run(self, job: Job, progress: Progress, say: Say) -> None:
        """Hand `job` to the worker and wait; see `run_on_ray`."""
        import ray

        ray.get(self._desk.submit.remote(job.url, pickle.dumps(job)))
        said = 0.0
        while True:
            self._thread.join(LOOK)
            state: State = ray.get(self._desk.look.remote(job.url))
            if state.worker is not None:
                self.workers.add(state.worker)
            if state.step:
                progress(state.step, state.pulse)
            said = self._look_for_worker(state.silent, said, say)
            if state.done:
                # Of several workers that have failed all have to be started anew: not kept.
                self.busy = state.failure is not None and self._count > 1
                if state.failure:
                    raise SluiceError(*state.failure)
                return
            if not self.alive:
                raise SluiceError(
                    f"the training worker was lost {self._max_failures + 1} times, the last time "
                    f"at step {state.step} of {job.url}: {_reason(self._error)}",
                    "look for memory shortage or a crash, then run the same command again: it "
                    "goes on from the last checkpoint",
                ) from self._error

    def _look_for_worker(self, silent: float, said: float, say: Say) -> float:
        """Say that there is no worker, once in a while. said: seconds of silence when it last was.

        SluiceError where none has come for too long.
        """
        if silent < LACK:
            return 0.0
        if silent - said < LACK:
            return said
        import ray

        free = ray.available_resources()
        least = "a processor and a GPU" if self._gpu else "a processor"
        lack = (
            f"no worker of the training for {duration(silent)}: each needs {least}, "
            f"and {free.get('CPU', 0):g} processors and {free.get('GPU', 0):g} GPUs are free in all"
        )
        if silent > patience(self._local):
            raise SluiceError(
                lack,
                "see that the cluster has room, then run the same command again: it goes on from "
                "the last checkpoint",
            )
        say(lack)
        return silent

    def close(self) -> None:
        """Send the worker home; Ray takes back what it held."""
        import ray
        from ray.exceptions import RayError

        with contextlib.suppress(RayError):
            ray.get(self._desk.close.remote())
            self._thread.join(CLOSING)
            ray.kill(self._desk)


_sessions: list[Session] = []
_lock = threading.Lock()


def run_on_ray(job: Job, progress: Progress, address: str = "local", say: Say = print) -> None:
    """Run `job` on a Ray Train worker; starts a Ray on this machine unless one is connected.

    say: is told while there is no room for a worker. Raises the worker's SluiceError, or one that
    says that the worker was lost too often, or that there is no room for one.
    """
    quiet = ENVIRONMENT | (LOCAL_ENVIRONMENT if address == "local" else {})
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    from ray.exceptions import RayActorError

    start_ray(job.settings.workers, address)
    for left in reversed(range(job.settings.max_failures + 1)):
        session = _session(job, address == "local")
        try:
            session.run(_absolute(job), progress, say)
            return
        except RayActorError as error:  # the desk's: its process or its node is gone
            if not left:
                raise SluiceError(
                    f"Ray lost what {job.url} is led by {job.settings.max_failures + 1} times",
                    "look for memory shortage or lost nodes, then run the same command again: it "
                    "goes on from the last checkpoint",
                ) from error
        finally:
            _release(session)


def close() -> None:
    """End the sessions that are kept for further runs; Ray itself stays."""
    with _lock:
        for session in _sessions:
            if session.alive and session.kind[-1] == _cluster():
                session.close()
        _sessions.clear()


def _session(job: Job, local: bool) -> Session:
    """An idle session for such jobs, else a new one; marked busy."""
    import ray

    # Ray's word and not PyTorch's: the GPU may be on another machine than this process.
    gpu = job.settings.device != "cpu" and ray.cluster_resources().get("GPU", 0) >= 1
    kind = (gpu, job.settings.max_failures, job.settings.workers, local, _cluster())
    with _lock:
        # Those of a Ray that has gone went with it.
        _sessions[:] = [session for session in _sessions if session.kind[-1] == kind[-1]]
        for session in _sessions:
            if session.kind == kind and session.alive and not session.busy:
                session.busy = True
                return session
        session = Session(*kind[:-1])
        _sessions.append(session)
        return session


def _release(session: Session) -> None:
    """Keep a session for the next run, unless it is still at this one (the wait for it was cut
    short) or has used up some of the failures it may have.
    """
    with _lock:
        if session.alive and not session.busy and len(session.workers) == 1:
            return
        if session in _sessions:
            _sessions.remove(session)
    if session.alive:
        session.close()


def _cluster() -> str:
    """The Ray this process is connected to: sessions do not outlive it."""
    import ray

    return ray.get_runtime_context().get_job_id() + ray.get_runtime_context().gcs_address


def _absolute(job: Job) -> Job:
    """`job` with paths that mean the same in a worker, whatever its folder."""

    def whole(url: str) -> str:
        return str(Path(url).resolve()) if filesystem.is_local(url) and "://" not in url else url

    settings = job.settings
    if settings.pretrained and Path(settings.pretrained).exists():
        settings = settings.model_copy(update={"pretrained": whole(settings.pretrained)})
    places = {field: whole(url) for field, url in settings.evaluate.places.items()}
    if settings.evaluate_every:
        settings = settings.model_copy(update={"evaluate": settings.evaluate.placed(places)})
    sources = tuple(replace(source, url=whole(source.url)) for source in job.sources)
    return replace(job, url=whole(job.url), sources=sources, settings=settings)


def _reason(error: BaseException | None) -> str:
    """The last line of what Ray says, which names the worker's own error."""
    failures = getattr(error, "worker_failures", None)
    text = str(next(iter(failures.values()))) if failures else str(error)
    return text.strip().splitlines()[-1] if text.strip() else type(error).__name__
