"""The deployments of prefect.yaml, on a real server with PostgreSQL, with a real worker."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from PIL import Image
from prefect import Flow

from flows import prefect_flows
from infra import artifacts
from infra.artifacts import Artifact
from infra.dataset import open_dataset
from infra.ray_jobs import Job
from tests.cluster import Cluster, cluster
from tests.services import ROOT, Server, postgres, postgres_programs, prefect_server, until

TERMINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
AUTOMATIONS = ROOT / "infra" / "deploy" / "prefect" / "automations.yaml"


def deployments() -> dict[str, dict[str, Any]]:
    described = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    return {deployment["name"]: deployment for deployment in described["deployments"]}


def test_every_flow_has_a_deployment_on_the_work_pool() -> None:
    found = deployments()
    flows = {
        f"flows/prefect_flows.py:{name}": each
        for name, each in vars(prefect_flows).items()
        if isinstance(each, Flow)
    }
    assert {each["entrypoint"] for each in found.values()} == set(flows)
    for each in found.values():  # all that may be chosen is there to be changed
        assert set(each["parameters"]) == set(flows[each["entrypoint"]].parameters.properties)
    assert {each["work_pool"]["name"] for each in found.values()} == {"sluice"}
    assert all(each["concurrency_limit"]["limit"] == 1 for each in found.values())
    crons = {
        name: [schedule["cron"] for schedule in each.get("schedules", [])]
        for name, each in found.items()
    }
    scheduled = {name for name, given in crons.items() if given}
    assert scheduled == {"nightly", "hourly", "gc", "verify"}
    assert found["gc"]["parameters"]["remove"] is False


def test_automations_bring_back_what_crashed_at_most_three_times() -> None:
    silent, again = yaml.safe_load(AUTOMATIONS.read_text())["automations"]
    beat = deployments()["nightly"]["work_pool"]["job_variables"]["env"]
    assert silent["trigger"]["within"] == 3 * int(beat["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert again["trigger"]["match"]["prefect.run-count"] == ["1", "2", "3"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server with the deployments and automations, none of which runs by itself."""
    if postgres_programs() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    with postgres() as database, prefect_server(tmp_path, database) as made:
        made.command("work-pool", "create", "sluice", "--type", "process")
        made.command("deploy", "--all")
        for each in made.call("POST", "deployments/filter", {}):
            made.call("POST", f"deployments/{each['id']}/pause_deployment")
        yield made


def deployed(server: Server) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in server.call("POST", "deployments/filter", {})}


def recipe(folder: Path, pictures: int, rows_per_shard: int, **run: Any) -> Path:
    """The recipe for data of one's own, on some pictures; in this process alone, unless told."""
    (folder / "pictures").mkdir()
    for number in range(pictures):
        colour = (number * 40 % 256, number // 7 % 256, 120)
        Image.new("RGB", (64, 48), colour).save(folder / "pictures" / f"{number}.png")
        (folder / "pictures" / f"{number}.txt").write_text(f"colour number {number}")
    described = yaml.safe_load((ROOT / "flows" / "recipes" / "your-shards.yaml").read_text())
    sources = [{"folder": str(folder / "pictures")}]
    described["data"] = {"pool": sources, "rows_per_shard": rows_per_shard}
    described["run"] = {"executor": "inline", **run}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(described))
    return path


def ask(server: Server, name: str, given: Path, store: Path) -> str:
    """A run of a deployment, now."""
    parameters = {"recipe": str(given), "overrides": ["seed=1"], "store": str(store)}
    path = f"deployments/{deployed(server)[name]['id']}/create_flow_run"
    return server.call("POST", path, {"parameters": parameters})["id"]


def finished(server: Server, run: str) -> str:
    def ended() -> str | None:
        state = server.state(run)
        return state if state in TERMINAL else None

    return until("the run", ended, server.logs / "worker.log")


@pytest.mark.prefect
@pytest.mark.slow
def test_a_scheduled_run_fires_and_completes(server: Server, tmp_path: Path) -> None:
    found = deployed(server)
    assert set(found) == set(deployments())
    for name, each in found.items():
        wanted = [schedule["cron"] for schedule in deployments()[name].get("schedules", [])]
        assert [schedule["schedule"]["cron"] for schedule in each["schedules"]] == wanted
        assert each["work_pool_name"] == "sluice"

    hourly, store = found["hourly"], tmp_path / "store"
    given = recipe(tmp_path, 6, 4)
    server.call(
        "PATCH",
        f"deployments/{hourly['id']}",
        {"parameters": {"recipe": str(given), "overrides": ["seed=1"], "store": str(store)}},
    )
    (schedule,) = hourly["schedules"]
    soon = {"schedule": {"interval": 3600.0, "anchor_date": anchor(seconds=3)}, "active": True}
    server.call("PATCH", f"deployments/{hourly['id']}/schedules/{schedule['id']}", soon)
    server.call("POST", f"deployments/{hourly['id']}/resume_deployment")

    def fired() -> str | None:
        runs = server.call("POST", "flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC"})
        return runs[0]["id"] if runs else None

    with server.worker():
        run = until("the schedule", fired, server.logs / "server.log")
        assert finished(server, run) == "COMPLETED", (server.logs / "worker.log").read_text()

        def told() -> bool:  # records travel in batches, a little behind
            return any("ingest pool: 2 shards" in each for each in server.messages(run))

        until("the run's log", told, server.logs / "worker.log")
    assert server.call("GET", f"flow_runs/{run}")["auto_scheduled"]
    tasks = server.call("POST", "task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    assert [(task["name"].rpartition("-")[0], task["state_type"]) for task in tasks] == [
        ("ingest pool", "COMPLETED")
    ]
    dataset = open_dataset(str(store), "pool")
    assert dataset.artifact.totals["rows"] == dataset.artifact.totals["kept"] == 6


def anchor(seconds: float) -> str:
    """A moment from now, as the server reads it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


# ---- a run that is cancelled, a worker that is killed ----

MANY = 3_000  # pictures, one to a shard: some ten seconds of work


def parts_recorded(store: Path) -> int:
    return len(list(store.glob("pool/*/_parts/*.json")))


def processes_of(worker: int) -> list[psutil.Process]:
    """The flow runs that a worker has started, with all that they started."""
    return psutil.Process(worker).children(recursive=True)


def undisturbed(folder: Path, given: Path) -> Artifact:
    """The same pool, made by the command in one go."""
    from flows.main import Options, execute, prepare
    from infra.progress import SilentDisplay

    options = Options(str(given), ("seed=1", "run.executor=inline"), str(folder / "undisturbed"))
    execute(prepare(options), "ingest", SilentDisplay(), lambda step, session: step.run(session))
    return open_dataset(str(folder / "undisturbed"), "pool").artifact


@pytest.mark.prefect
@pytest.mark.long
def test_a_run_that_is_cancelled_stops_its_processes_and_can_go_on(
    server: Server, tmp_path: Path
) -> None:
    store, given = tmp_path / "store", recipe(tmp_path, MANY, 1, executor="local", workers=1)
    with server.worker() as worker:
        run = ask(server, "hourly", given, store)
        until("some shards", lambda: parts_recorded(store) > 20, server.logs / "worker.log")
        running = processes_of(worker.pid)
        assert running
        body = {"state": {"type": "CANCELLING"}, "force": False}
        server.call("POST", f"flow_runs/{run}/set_state", body)
        assert finished(server, run) == "CANCELLED"
        until(
            "the end of its processes",
            lambda: not any(alive(process) for process in running),
            server.logs / "worker.log",
            patience=60,
        )
        assert 0 < parts_recorded(store) < MANY
        assert finished(server, ask(server, "hourly", given, store)) == "COMPLETED"
    made = open_dataset(str(store), "pool").artifact
    assert made.content == undisturbed(tmp_path, given).content


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.prefect
@pytest.mark.long
def test_a_worker_that_is_killed_is_followed_by_a_run_that_goes_on(
    server: Server, tmp_path: Path
) -> None:
    server.command("automation", "create", "--from-file", str(AUTOMATIONS))
    store, given = tmp_path / "store", recipe(tmp_path, MANY, 1)
    with server.worker("first") as worker:
        run = ask(server, "hourly", given, store)
        until("some shards", lambda: parts_recorded(store) > 20, server.logs / "first.log")
        for process in [*processes_of(worker.pid), psutil.Process(worker.pid)]:
            process.send_signal(signal.SIGKILL)
    done = parts_recorded(store)
    assert 0 < done < MANY and server.state(run) == "RUNNING"
    with server.worker():
        assert until(
            "another try",
            lambda: server.state(run) == "COMPLETED",
            server.logs / "worker.log",
            patience=400,
        )
    assert server.call("GET", f"flow_runs/{run}")["run_count"] == 2
    made = open_dataset(str(store), "pool").artifact
    assert made.content == undisturbed(tmp_path, given).content
    assert artifacts.verify(made) == []


# ---- the same, where the work is a job of a Ray cluster ----


@pytest.fixture(scope="module")
def ray() -> Iterator[Cluster]:
    with cluster(1) as made:
        yield made


def let_in(server: Server, ray: Cluster, name: str) -> None:
    """Give runs of a deployment the cluster's token, which is a secret of the server's."""
    script = "import sys; from prefect.blocks.system import Secret; "
    script += "Secret(value=sys.stdin.read()).save('ray-token')"
    subprocess.run(
        [sys.executable, "-c", script],
        env=server.environment, input=ray.token, text=True, check=True,
    )  # fmt: skip
    found = deployed(server)[name]
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "{{ prefect.blocks.secret.ray-token }}"}
    variables = found["job_variables"]
    variables = {**variables, "env": {**variables["env"], **token}}
    server.call("PATCH", f"deployments/{found['id']}", {"job_variables": variables})


def jobs_on(ray: Cluster, store: Path) -> list[Job]:
    """All jobs that ever worked on a store, the first one first."""
    found = [job for job in ray.jobs().all() if job.metadata.get("store") == str(store)]
    return sorted(found, key=lambda job: job.start)


@pytest.mark.prefect
@pytest.mark.ray
@pytest.mark.long
def test_a_run_that_is_cancelled_stops_its_job(
    server: Server, ray: Cluster, tmp_path: Path
) -> None:
    let_in(server, ray, "hourly")
    store, given = (
        tmp_path / "store",
        recipe(tmp_path, MANY, 1, executor="ray", address=ray.dashboard),
    )
    log = server.logs / "worker.log"
    with server.worker():
        run = ask(server, "hourly", given, store)
        until("some shards", lambda: parts_recorded(store) > 20, log)
        (job,) = jobs_on(ray, store)
        assert job.status == "RUNNING" and ray.workers()
        body = {"state": {"type": "CANCELLING"}, "force": False}
        server.call("POST", f"flow_runs/{run}/set_state", body)
        assert finished(server, run) == "CANCELLED"
        assert [(each.id, each.status) for each in jobs_on(ray, store)] == [(job.id, "STOPPED")]
        until("the end of its workers", lambda: not ray.workers(), log, patience=30)
        done = parts_recorded(store)
        assert 20 < done < MANY
        again = ask(server, "hourly", given, store)
        assert finished(server, again) == "COMPLETED", log.read_text()
    assert [each.status for each in jobs_on(ray, store)] == ["STOPPED", "SUCCEEDED"]
    made = open_dataset(str(store), "pool").artifact
    assert made.content == undisturbed(tmp_path, given).content
    assert artifacts.verify(made) == []


@pytest.mark.prefect
@pytest.mark.ray
@pytest.mark.long
def test_a_run_whose_worker_was_killed_finds_its_job_again(
    server: Server, ray: Cluster, tmp_path: Path
) -> None:
    server.command("automation", "create", "--from-file", str(AUTOMATIONS))
    let_in(server, ray, "hourly")
    store, given = (
        tmp_path / "store",
        recipe(tmp_path, MANY, 1, executor="ray", address=ray.dashboard),
    )
    with server.worker("first") as worker:
        run = ask(server, "hourly", given, store)
        until("some shards", lambda: parts_recorded(store) > 20, server.logs / "first.log")
        for process in [*processes_of(worker.pid), psutil.Process(worker.pid)]:
            process.send_signal(signal.SIGKILL)
    killed = time.time()
    resting = ray.workers()  # so that the job is at work still when the run comes back
    for process in resting:
        process.suspend()
    (job,) = jobs_on(ray, store)
    assert job.status == "RUNNING" and job.start < killed and server.state(run) == "RUNNING"
    assert 20 < parts_recorded(store) < MANY
    log = server.logs / "worker.log"
    with server.worker():
        attached = f"ingest pool: job {job.id}, which is at work already"
        until("another try", lambda: attached in server.messages(run), log, patience=400)
        for process in resting:
            process.resume()
        assert finished(server, run) == "COMPLETED", log.read_text()
    assert server.call("GET", f"flow_runs/{run}")["run_count"] == 2
    (only,) = jobs_on(ray, store)
    assert (only.id, only.start, only.status) == (job.id, job.start, "SUCCEEDED")
    made = open_dataset(str(store), "pool").artifact
    assert made.content == undisturbed(tmp_path, given).content
    assert artifacts.verify(made) == []
