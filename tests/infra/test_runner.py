"""The runner's promises, on this process, on processes and on Ray."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.errors import SluiceError
from infra.ray_pool import shared_gpu
from infra.runner import (
    LocalRunner,
    LostError,
    Runner,
    make_runner,
    own_processors,
    processors,
)

EVERYWHERE = ["inline", "local", pytest.param("ray", marks=pytest.mark.ray)]
ELSEWHERE = ["local", pytest.param("ray", marks=pytest.mark.ray)]


@pytest.fixture(scope="module")
def runners() -> Iterator[dict[str, Runner]]:
    made: dict[str, Runner] = {}
    yield made
    for runner in made.values():
        runner.__exit__(None, None, None)


@pytest.fixture
def runner(request: pytest.FixtureRequest, runners: dict[str, Runner]) -> Runner:
    """One runner of each kind for the whole module: tests also show that it stays usable."""
    kind = request.param
    if kind not in runners:
        runners[kind] = make_runner(kind, 2).__enter__()
    return runners[kind]


def square(number: int) -> int:
    time.sleep(0.02 * (number % 3))  # so that items finish in another order than they start
    return number * number


def refuse(number: int) -> int:
    if number == 3:
        raise SluiceError("shard 00003 is missing", "put it back")
    return number


def stumble(number: int) -> int:
    return 10 // (number - 3)


def crash_once(task: tuple[str, int]) -> int:
    """Kill the worker the first time item 4 comes by."""
    folder, number = task
    if number == 4:
        marker = Path(folder, "crashed")
        if not marker.exists():
            marker.touch()
            os._exit(1)
    return number


def poison(task: tuple[str, int]) -> int:
    """Kill every worker that touches item 4."""
    folder, number = task
    with Path(folder, f"{number}-{time.monotonic_ns()}").open("w"):
        pass
    if number == 4:
        os._exit(1)
    time.sleep(0.05)
    return number


def hang_once(task: tuple[str, int]) -> int:
    folder, number = task
    if number == 2:
        marker = Path(folder, "hung")
        if not marker.exists():
            marker.touch()
            time.sleep(600)
    return number


def fail_beside(task: tuple[str, int]) -> int:
    """Item 0 fails at once; the others write a file a while later."""
    folder, number = task
    if number == 0:
        raise SluiceError("shard 00000 is missing", "put it back")
    time.sleep(0.5)
    Path(folder, str(number)).touch()
    return number


def threads(_: int) -> str:
    return os.environ.get("OMP_NUM_THREADS", "")


@pytest.mark.parametrize("runner", EVERYWHERE, indirect=True)
def test_results_carry_their_index_whatever_the_order(runner: Runner) -> None:
    items = list(range(23))  # more than the window holds
    results = list(runner.map(square, items))
    assert sorted(index for index, _ in results) == items
    assert [result for _, result in sorted(results)] == [item * item for item in items]


@pytest.mark.parametrize("runner", EVERYWHERE, indirect=True)
def test_nothing_to_do(runner: Runner) -> None:
    assert list(runner.map(square, [])) == []


@pytest.mark.parametrize("runner", EVERYWHERE, indirect=True)
def test_our_own_error_passes_through_whole(runner: Runner) -> None:
    with pytest.raises(SluiceError) as caught:
        list(runner.map(refuse, range(8)))
    assert not isinstance(caught.value, LostError)
    assert (caught.value.what, caught.value.way_out) == ("shard 00003 is missing", "put it back")
    assert len(list(runner.map(square, range(4)))) == 4


@pytest.mark.parametrize("runner", ELSEWHERE, indirect=True)
def test_what_ran_beside_a_failed_item_writes_nothing_more(runner: Runner, tmp_path: Path) -> None:
    list(runner.map(square, range(4)))  # workers that are up
    with pytest.raises(SluiceError):
        list(runner.map(fail_beside, [(str(tmp_path), number) for number in range(6)]))
    time.sleep(1)
    assert list(tmp_path.iterdir()) == []
    assert len(list(runner.map(square, range(4)))) == 4


@pytest.mark.parametrize("runner", EVERYWHERE, indirect=True)
def test_a_mistake_in_the_function_keeps_its_type(runner: Runner) -> None:
    with pytest.raises(ZeroDivisionError):
        list(runner.map(stumble, range(8)))


@pytest.mark.parametrize("runner", ELSEWHERE, indirect=True)
def test_what_a_dead_worker_was_doing_is_done_again(runner: Runner, tmp_path: Path) -> None:
    items = [(str(tmp_path), number) for number in range(12)]
    results = list(runner.map(crash_once, items))
    assert (tmp_path / "crashed").exists()
    assert sorted(results) == [(number, number) for number in range(12)]


@pytest.mark.parametrize("runner", ELSEWHERE, indirect=True)
def test_an_item_that_kills_every_worker_is_named(runner: Runner, tmp_path: Path) -> None:
    items = [(str(tmp_path), number) for number in range(9)]
    with pytest.raises(LostError, match="item 4 was lost 3 times: its process died") as caught:
        list(runner.map(poison, items, retries=2))
    assert caught.value.index == 4
    # Once more where Ray lost the word of the item before with the worker: that one was blamed.
    assert 3 <= len(list(tmp_path.glob("4-*"))) <= 6
    assert "finished shards are kept" in caught.value.way_out


@pytest.mark.slow
@pytest.mark.parametrize("runner", ELSEWHERE, indirect=True)
def test_a_hung_worker_is_killed_and_its_item_done_again(runner: Runner, tmp_path: Path) -> None:
    items = [(str(tmp_path), number) for number in range(5)]
    results = list(runner.map(hang_once, items, deadline=2.0))
    assert (tmp_path / "hung").exists()
    assert sorted(results) == [(number, number) for number in range(5)]


@pytest.mark.slow
def test_an_item_past_its_deadline_every_time_is_named() -> None:
    with LocalRunner(1) as runner, pytest.raises(LostError, match=r"longer than 0\.3 s"):
        list(runner.map(time.sleep, [60], retries=1, deadline=0.3))


@pytest.mark.parametrize("runner", ELSEWHERE, indirect=True)
def test_workers_use_one_thread(runner: Runner) -> None:
    assert {value for _, value in runner.map(threads, range(2))} == {"1"}


def test_a_worker_that_dies_with_nothing_to_do_is_replaced() -> None:
    others = set(multiprocessing.active_children())  # of the module's own runner
    with LocalRunner(2) as runner:
        list(runner.map(square, range(4)))
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
            process.join()
        assert len(list(runner.map(square, range(6)))) == 6


def test_results_not_asked_for_do_not_stop_the_exit() -> None:
    others = set(multiprocessing.active_children())  # of the module's own runner
    with LocalRunner(2) as runner:
        results = runner.map(time.sleep, [0, 60, 60, 60])
        assert next(results)[0] == 0
        start = time.monotonic()
    assert time.monotonic() - start < 30
    assert set(multiprocessing.active_children()) <= others


PARENT = """
import time
from infra.runner import LocalRunner
from tests.infra.test_runner import square

if __name__ == "__main__":
    with LocalRunner(2) as runner:
        list(runner.map(square, range(4)))
        print("ready", flush=True)
        list(runner.map(time.sleep, [600, 600]))
"""


def start_parent(tmp_path: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        start_new_session=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process, psutil.Process(process.pid).children(recursive=True)


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    process, children = start_parent(tmp_path)
    assert len(children) >= 2
    process.kill()
    process.wait()
    gone, alive = psutil.wait_procs(children, timeout=30)
    for child in alive:
        child.kill()
    assert not alive
    assert len(gone) == len(children)


@pytest.mark.slow
def test_ctrl_c_stops_everything_and_only_the_parent_speaks(tmp_path: Path) -> None:
    process, children = start_parent(tmp_path)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group at once
    _, errors = process.communicate(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    assert errors.count("KeyboardInterrupt") == 1
    assert "SpawnProcess" not in errors


def test_an_unknown_executor_is_refused() -> None:
    with pytest.raises(SluiceError, match="unknown executor 'dask'"):
        make_runner("dask", 1)


def test_zero_workers_means_one_per_processor() -> None:
    assert make_runner("local", 0).workers == processors() >= 1


def test_workers_share_the_gpus_only_while_they_use_them() -> None:
    shares = [shared_gpu(gpus, workers) for gpus, workers in ((0, 4), (8, 64), (2, 3), (8, 2))]
    assert shares == [0, 1 / 8, 1 / 2, 1]


@pytest.mark.ray
@pytest.mark.slow
def test_ray_shows_gpus_to_the_work_that_wants_them() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.infra.gpus"],
        cwd=root, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["with"]) <= {"0", "1"}
    assert set(found["without"]) == {""}
    assert found["free"] == 2
    assert found["again"] and set(found["again"]) <= {"0", "1"}


def own(_: int) -> int:
    return own_processors()


@pytest.mark.parametrize("runner", ELSEWHERE, indirect=True)
def test_a_worker_knows_its_share_of_the_processors(runner: Runner) -> None:
    expected = max(processors() // runner.workers, 1)
    assert set(dict(runner.map(own, range(4))).values()) == {expected}
    assert own_processors() == 1
