"""infra/deploy/slurm/run.sbatch on a real Slurm of two nodes."""

import time
from pathlib import Path

import psutil
import pytest

from infra import artifacts
from infra.dataset import open_dataset
from tests.cluster import free_port
from tests.flows.test_deployment import MANY, parts_recorded, recipe, undisturbed
from tests.services import ROOT, until
from tests.slurm import Slurm, missing, slurm

SCRIPT = ROOT / "infra" / "deploy" / "slurm" / "run.sbatch"
GOING = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")


def at_work() -> set[str]:
    """The Slurm nodes on which Ray's workers are."""
    found = set[str]()
    for process in psutil.process_iter():
        try:
            if process.name().startswith("ray::"):
                found.add(process.environ().get("SLURMD_NODENAME", ""))
        except psutil.Error:  # it has gone, or is not ours
            continue
    return found - {""}


def change(made: Slurm, job: str, **values: str) -> None:
    given = [f"{name}={value}" for name, value in values.items()]
    made.command("scontrol", "update", f"JobId={job}", *given)


@pytest.mark.prefect
@pytest.mark.ray
@pytest.mark.long
def test_a_run_on_two_nodes_is_requeued_at_its_time_limit_and_goes_on(tmp_path: Path) -> None:
    if lacking := missing():
        pytest.skip(f"no {', '.join(lacking)} (Debian: apt install slurm-wlm munge)")
    store, given, log = tmp_path / "store", recipe(tmp_path, MANY, 1), tmp_path / "log"
    run = ("ingest", "--recipe", str(given), "--set", "seed=1", "--store", str(store))
    options = ("--parsable", "--nodes=2", f"--output={log}", f"--chdir={ROOT}")
    with slurm(2, SLUICE_RAY_PORT=str(free_port())) as made:
        begin = time.monotonic()
        job = made.command("sbatch", *options, str(SCRIPT), *run)
        until("some shards", lambda: parts_recorded(store) > 20, log)
        until("work on both nodes", lambda: at_work() == {"node1", "node2"}, log)
        minutes = 2 + int(time.monotonic() - begin) // 60  # up to two are left: it is told so
        change(made, job, TimeLimit=str(minutes))
        until("its being requeued", lambda: made.state(job) == "PENDING", log)
        assert "DUE TO TIME LIMIT" not in log.read_text()
        assert 20 < parts_recorded(store) < MANY
        until("the end of its processes", lambda: not at_work(), log, patience=60)
        change(made, job, TimeLimit="60", StartTime="now")
        until("another try", lambda: made.state(job) not in GOING, log, patience=400)
        assert made.state(job) == "COMPLETED", log.read_text()
    version = open_dataset(str(store), "pool").artifact
    assert version.content == undisturbed(tmp_path, given).content
    assert artifacts.verify(version) == []
