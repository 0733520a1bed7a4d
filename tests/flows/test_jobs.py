"""Steps as jobs of a real cluster: they outlive a killed submitter and end with a cancelled one."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from PIL import Image

from flows.cluster import release
from infra.errors import SluiceError
from infra.ray_jobs import Job, Jobs
from tests.cluster import ROOT, Cluster, cluster
from tests.flows.submit import ingest

PATIENCE = 120.0  # seconds
SHARDS = 120
pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def ray() -> Iterator[Cluster]:
    with cluster(1, 1) as made:
        yield made


@pytest.fixture
def jobs(ray: Cluster, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", ray.token)
    return Jobs(ray.dashboard)


@pytest.fixture(scope="module")
def recipe(ray: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A large picture to a shard: many shards, each of which takes a moment."""
    folder = tmp_path_factory.mktemp("recipe")
    pictures = folder / "pictures"
    pictures.mkdir()
    Image.new("RGB", (1500, 1000), (40, 90, 120)).save(pictures / "0000.png")
    large = (pictures / "0000.png").read_bytes()
    for number in range(SHARDS):  # what follows the end of a PNG is not looked at
        (pictures / f"{number:04d}.png").write_bytes(large + str(number).encode())
        (pictures / f"{number:04d}.txt").write_text(f"picture number {number}")
    (folder / "one").mkdir()
    Image.new("RGB", (64, 48), (40, 90, 120)).save(folder / "one" / "0000.png")
    described = yaml.safe_load((ROOT / "flows" / "recipes" / "your-shards.yaml").read_text())
    described["data"] = {
        "pool": [{"folder": str(pictures)}],
        "rows_per_shard": 1,
        "resize": {"mode": "keep_ratio", "size": 64},
    }
    described["run"] = {"executor": "ray", "address": ray.dashboard}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(described))
    return path


@pytest.fixture(scope="module")
def expected(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What comes of it in one process, without any Ray."""
    return ingest(str(recipe), str(tmp_path_factory.mktemp("here")), "run.executor=inline")


def ready(ray: Cluster, *arguments: object) -> subprocess.Popen[str]:
    """A submitter that has imported what it needs, and waits for a line to begin."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.flows.submit", *map(str, arguments)],
        cwd=ROOT, env=dict(ray.environment), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout
    while (line := process.stdout.readline()) != "ready\n":
        assert line, "it ended before it was ready"
    return process


def begin(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()
    return process


def submit(ray: Cluster, *arguments: object) -> subprocess.Popen[str]:
    return begin(ready(ray, *arguments))


def until_at_work(store: Path, process: subprocess.Popen[str]) -> None:
    until(lambda: parts(store) > 5, process)


@contextlib.contextmanager
def halted(ray: Cluster) -> Iterator[None]:
    """Meanwhile the cluster's workers do nothing."""
    workers = ray.workers()
    for worker in workers:
        worker.suspend()
    try:
        yield
    finally:
        for worker in workers:
            worker.resume()


def until_said(process: subprocess.Popen[str], words: str) -> str:
    """What a process prints, up to the line with these words."""
    said = ""
    assert process.stdout
    while words not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    return said


def until(there: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.1)


def parts(store: Path) -> int:
    return len(list(store.glob("pool/*/_parts/*.json")))


def of_store(jobs: Jobs, store: Path) -> list[Job]:
    return sorted(
        (job for job in jobs.all() if job.metadata.get("store") == str(store)),
        key=lambda job: job.id,
    )


def test_a_killed_submitter_finds_its_job_again(
    ray: Cluster, jobs: Jobs, recipe: Path, expected: str, tmp_path: Path
) -> None:
    again = ready(ray, recipe, tmp_path)
    first = submit(ray, recipe, tmp_path)
    until_at_work(tmp_path, first)
    first.kill()
    with halted(ray):  # however long the second one takes, there is something left to do
        first.wait()
        said = until_said(begin(again), "which is at work already")
    said += again.communicate(timeout=PATIENCE)[0]
    assert again.returncode == 0, said
    assert f"ingest pool: {SHARDS} shards" in said  # the job's own words
    assert said.splitlines()[-1] == expected
    (job,) = of_store(jobs, tmp_path)
    assert job.status == "SUCCEEDED"
    assert not list(tmp_path.glob("jobs/*"))


@pytest.mark.long
def test_a_cancelled_flow_stops_its_job_and_the_next_goes_on(
    ray: Cluster, jobs: Jobs, recipe: Path, expected: str, tmp_path: Path
) -> None:
    first = submit(ray, recipe, tmp_path)
    until_at_work(tmp_path, first)
    start = time.monotonic()
    first.send_signal(signal.SIGTERM)
    said, _ = first.communicate(timeout=30)
    assert first.returncode != 0
    assert "stopping job" in said
    (job,) = of_store(jobs, tmp_path)
    assert job.status == "STOPPED"
    until(lambda: not ray.workers())
    assert time.monotonic() - start < 30
    done = parts(tmp_path)
    assert 5 < done < SHARDS
    said, _ = submit(ray, recipe, tmp_path).communicate(timeout=PATIENCE)
    assert said.splitlines()[-1] == expected
    assert [job.status for job in of_store(jobs, tmp_path)] == ["STOPPED", "SUCCEEDED"]


@pytest.mark.long
def test_a_job_that_nobody_waits_for_is_stopped_by_the_next_run(
    ray: Cluster, jobs: Jobs, recipe: Path, tmp_path: Path
) -> None:
    alone = "run.workers=1"  # so that there is room for another
    orphaned = submit(ray, recipe, tmp_path, alone)
    until_at_work(tmp_path, orphaned)
    orphaned.kill()
    orphaned.wait()
    (job,) = of_store(jobs, tmp_path)
    watch = tmp_path / "jobs" / job.metadata["name"] / "watched.json"
    small = (alone, f"data.pool.0.folder={recipe.parent / 'one'}")  # something else there
    said, _ = submit(ray, recipe, tmp_path, *small).communicate(timeout=PATIENCE)
    assert "nobody waits for" not in said  # somebody did so a moment ago
    watch.write_text(json.dumps({"time": time.time() - 3600, "by": "somebody"}))
    said, _ = submit(ray, recipe, tmp_path, *small).communicate(timeout=PATIENCE)
    found = jobs.find(job.id)
    if found and found.status != "SUCCEEDED":  # else it was done before
        assert f"stopped {job.id}, which nobody waits for any more" in said
        assert found.status == "STOPPED"


@pytest.mark.long
def test_what_a_cancelled_flow_run_waited_for_is_stopped_from_outside(
    ray: Cluster, jobs: Jobs, recipe: Path, tmp_path: Path
) -> None:
    first = submit(ray, recipe, tmp_path)
    until_at_work(tmp_path, first)
    first.kill()
    first.wait()
    (watch,) = tmp_path.glob("jobs/*/watched.json")
    by = json.loads(watch.read_text())["by"]
    assert release(ray.dashboard, str(tmp_path), "another") == []
    assert release(ray.dashboard, str(tmp_path), by) == [of_store(jobs, tmp_path)[0].id]
    assert of_store(jobs, tmp_path)[0].status == "STOPPED"


@pytest.mark.long
def test_a_job_past_its_deadline_is_stopped(
    ray: Cluster, jobs: Jobs, recipe: Path, tmp_path: Path
) -> None:
    process = submit(ray, recipe, tmp_path, "run.deadline=2")
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "its deadline" in said
    assert [job.status for job in of_store(jobs, tmp_path)] in (["STOPPED"], ["FAILED"])


@pytest.mark.long
def test_a_job_fails_with_its_own_words(
    ray: Cluster, jobs: Jobs, recipe: Path, tmp_path: Path
) -> None:
    pictures, store = tmp_path / "pictures", tmp_path / "store"
    shutil.copytree(recipe.parent / "one", pictures)
    process = submit(ray, recipe, store, f"data.pool.0.folder={pictures}")
    until(lambda: list(store.glob("jobs/*/order.json")), process)
    shutil.rmtree(pictures)  # before the job has looked at it
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert f"error: no folder at {pictures}" in said or f"error: no file at {pictures}" in said
    assert "way out: check the source's `folder`" in said
    assert "Traceback" not in said and "sluice-failure" not in said
    assert [job.status for job in of_store(jobs, store)] == ["FAILED"]


@pytest.mark.parametrize(("token", "told"), [("f" * 64, "another token"), ("", "no token")])
def test_a_foreign_token_is_told_at_once(
    ray: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str, told: str
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", os.devnull)
    with pytest.raises(SluiceError, match=told) as caught:
        Jobs(ray.dashboard).check()
    assert "RAY_AUTH_TOKEN_PATH" in caught.value.way_out


@pytest.mark.long
def test_a_head_that_is_lost_is_told_and_the_store_goes_on_elsewhere(
    ray: Cluster, recipe: Path, expected: str, tmp_path: Path
) -> None:
    """The last of this file: it takes the head that all tests share."""
    process = submit(ray, recipe, tmp_path)
    until_at_work(tmp_path, process)
    ray.nodes[0].kill()
    start = time.monotonic()
    said, _ = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - start < 90
    assert process.returncode == 1
    assert f"error: the Ray cluster at {ray.dashboard} does not answer" in said
    assert "finished shards are kept" in said
    assert 5 < parts(tmp_path) < SHARDS
    assert ingest(str(recipe), str(tmp_path), "run.executor=inline") == expected
