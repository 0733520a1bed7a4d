"""Training through Ray Train: one worker, replaced when it dies, going on from its checkpoint.

The loop knows nothing of Ray, and its bytes are the same without. Ray Train's own storage holds
nothing of ours, so it is a temporary folder; progress comes back through a small file beside the
checkpoint, which any file system can carry.
"""

import json
import os
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from infra import filesystem
from infra.digests import canonical_json
from infra.errors import SluiceError
from infra.filesystem import join
from infra.runner import start_ray
from pretrain.data import Source
from pretrain.loop import Job, Progress, pick_device, run
from pretrain.run import WORK

PROGRESS = f"{WORK}/progress.json"
FAILED = f"{WORK}/failed"  # folder of the one file that says why
FAILURE = f"{FAILED}/error.json"
INTERVAL = 0.5  # seconds between two looks at, or two writings of, the progress file
# Quiet, at home: no usage reports, no warnings about older interfaces, no change of folder.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


def run_on_ray(job: Job, progress: Progress, address: str = "local") -> None:
    """Run `job` on a Ray Train worker; starts a Ray on this machine unless one is connected.

    Raises the worker's SluiceError, or one that says the worker was lost too often.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    start_ray(1, address)
    job = _absolute(job)
    filesystem.remove_tree(join(job.url, FAILED))
    errors: list[BaseException] = []
    with tempfile.TemporaryDirectory(prefix="sluice-train-", ignore_cleanup_errors=True) as storage:
        # Ray Train takes over Ctrl-C when it runs in the main thread; ours shall keep it.
        thread = threading.Thread(target=_fit, args=(job, storage, errors), daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(INTERVAL)
            _show(job, progress)
    if filesystem.exists(join(job.url, FAILURE)):
        failure = filesystem.read_json(join(job.url, FAILURE))
        filesystem.remove_tree(join(job.url, FAILED))
        raise SluiceError(failure["what"], failure["way_out"])
    if errors:
        raise SluiceError(
            f"the training worker of {job.url} failed {job.settings.max_failures + 1} times: "
            f"{_reason(errors[0])}",
            "look for memory shortage or a crash, then run the same command again: it goes on "
            "from the last checkpoint",
        ) from errors[0]


def _fit(job: Job, storage: str, errors: list[BaseException]) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    try:
        TorchTrainer(
            _work,
            train_loop_config={"job": job},
            scaling_config=ScalingConfig(
                num_workers=1,
                use_gpu=pick_device(job.settings.device).type == "cuda",
                resources_per_worker={"CPU": 1},
            ),
            run_config=RunConfig(
                name=job.digest,
                storage_path=storage,
                failure_config=FailureConfig(max_failures=job.settings.max_failures),
            ),
        ).fit()
    except BaseException as error:
        errors.append(error)


def _work(config: dict[str, Any]) -> None:
    """The body of the worker. A SluiceError is final: it is handed over, not tried again."""
    job: Job = config["job"]
    last = 0.0

    def progress(step: int, note: str) -> None:
        nonlocal last
        if time.monotonic() - last >= INTERVAL or step == job.settings.steps:
            last = time.monotonic()
            record = canonical_json({"step": step, "note": note})
            filesystem.write_bytes(job.url, PROGRESS, record)

    try:
        run(job, progress)
    except SluiceError as error:
        record = canonical_json({"what": error.what, "way_out": error.way_out})
        filesystem.write_bytes(job.url, FAILURE, record)


def _show(job: Job, progress: Progress) -> None:
    try:
        record = filesystem.read_json(join(job.url, PROGRESS))
    except (FileNotFoundError, json.JSONDecodeError):
        return
    progress(record["step"], record["note"])


def _absolute(job: Job) -> Job:
    """`job` with paths that mean the same in a worker, whatever its folder."""

    def whole(url: str) -> str:
        return str(Path(url).resolve()) if filesystem.is_local(url) and "://" not in url else url

    settings = job.settings
    if settings.pretrained and Path(settings.pretrained).exists():
        settings = settings.model_copy(update={"pretrained": whole(settings.pretrained)})
    sources = tuple(Source(whole(source.url), source.weight) for source in job.sources)
    return replace(job, url=whole(job.url), sources=sources, settings=settings)


def _reason(error: BaseException) -> str:
    """The last line of what Ray says, which names the worker's own error."""
    failures = getattr(error, "worker_failures", None)
    text = str(next(iter(failures.values()))) if failures else str(error)
    return text.strip().splitlines()[-1] if text.strip() else type(error).__name__
