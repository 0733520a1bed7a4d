"""The Ray runner on a cluster of several nodes: those that go, those that come, and the head."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster import ROOT, Cluster, cluster
from tests.infra.on_cluster import run

PATIENCE = 180.0  # seconds
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long]


def start(ray: Cluster, store: Path, items: int, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.infra.on_cluster"]
    return subprocess.Popen(
        [*command, str(store), ray.address, str(items), str(seconds)],
        cwd=ROOT, env=dict(ray.environment), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def nodes(store: Path) -> list[str]:
    """Where each item was done, in the order in which they were."""
    log = store / "made" / "nodes.log"
    return [line.split()[1] for line in log.read_text().splitlines()] if log.exists() else []


def until(ready: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def test_nodes_come_and_go_and_the_head_last(tmp_path: Path) -> None:
    items = 600  # more than are done, slowly, before all nodes have some, on a busy machine
    expected = run(str(tmp_path / "here"), "inline", "local", items, 0)
    with cluster(1, 1) as ray:
        store = tmp_path / "there"
        driver = start(ray, store, items, 0.4)
        until(lambda: len(set(nodes(store))) == 2, driver)  # both have work
        ray.nodes[-1].kill()
        ray.join(2)
        until(lambda: len(set(nodes(store))) == 3, driver)  # the one that joined has some, too
        (store / "made" / "go").touch()
        said, errors = driver.communicate(timeout=PATIENCE)
        assert driver.returncode == 0, errors
        assert said.splitlines()[-1] == expected
        # At least once each, and again only what was at hand on the node that was lost.
        assert items <= len(nodes(store)) <= items + 2

        items = 400  # more than it gets done before it misses the head
        store = tmp_path / "headless"
        driver = start(ray, store, items, 0.4)
        until(lambda: len(nodes(store)) > 10, driver)
        ray.nodes[0].kill()
        begin = time.monotonic()
        said, errors = driver.communicate(timeout=PATIENCE)
        assert time.monotonic() - begin < 90
        assert driver.returncode == 1
        assert (
            "error: the head of the Ray cluster" in errors and "finished shards are kept" in errors
        )
    done = len(nodes(store))
    assert 10 < done < items
    expected = run(str(tmp_path / "here again"), "inline", "local", items, 0)
    assert run(str(store), "inline", "local", items, 0) == expected
    assert nodes(store).count("here") <= items - done + 2  # and not from the beginning
