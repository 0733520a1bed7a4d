import asyncio
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial

import psutil
import pytest

from curation.resize import Transformed, transform
from curation.resize_settings import ResizeSettings
from curation.sandbox import CrashedError, Sandbox
from infra.errors import SluiceError
from infra.runner import make_runner
from tests.curation.hostile import work

MIB = 2**20


def gone(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_results_come_back_in_order_whatever_their_size() -> None:
    items = [bytes([number]) * size for number, size in enumerate([0, 1, 70_000, 5 * MIB, 3] * 20)]
    with Sandbox(work) as box:
        assert box.pid is None  # nothing starts before there is work
        futures = [box.submit(item) for item in items]
        assert [future.result(60) for future in futures] == items


def test_many_items_at_once_and_from_several_waits() -> None:
    with Sandbox(work) as box:
        for _ in range(3):
            futures = [box.submit(number) for number in range(1000)]
            assert [future.result(60) for future in futures] == list(range(1000))


@pytest.mark.parametrize(
    ("bad", "value"),
    [
        (("crash", 0), "crashed"),
        (("hang", 60), "hung"),
        (("spin", 0), "hung"),
        (("eat", 900 * MIB), "out of memory"),
    ],
)
def test_only_the_item_at_fault_pays(bad: tuple[str, int], value: str) -> None:
    with Sandbox(work, deadline=0.7, memory=256 * MIB) as box:
        before = [box.submit(number) for number in range(50)]
        culprit = box.submit(bad)
        after = [box.submit(number) for number in range(50)]
        assert [future.result(60) for future in before + after] == [*range(50), *range(50)]
        with pytest.raises(CrashedError) as caught:
            culprit.result(60)
        assert caught.value.value == value
        assert box.submit("on").result(60) == "on"


def test_several_crashes_in_a_row_are_told_apart() -> None:
    items: list[object] = [("crash", 0) if number % 4 == 1 else number for number in range(12)]
    with Sandbox(work) as box:
        ends = [future.exception(60) for future in [box.submit(item) for item in items]]
    assert [isinstance(end, CrashedError) for end in ends] == [n % 4 == 1 for n in range(12)]


def test_what_memory_allows_is_done() -> None:
    with Sandbox(work, memory=256 * MIB) as box:
        assert box.submit(("eat", 200 * MIB)).result(60) == 200 * MIB


def test_a_child_killed_from_outside_costs_nothing() -> None:
    with Sandbox(work) as box:
        first = box.submit(("pid", 0)).result(60)
        futures = [box.submit(("hang", 0.2)), *(box.submit(number) for number in range(30))]
        time.sleep(0.1)
        os.kill(first, signal.SIGKILL)
        assert [future.result(60) for future in futures[1:]] == list(range(30))
        assert futures[0].result(60) == 0.2
        second = box.submit(("pid", 0)).result(60)
        assert second != first
        os.kill(second, signal.SIGKILL)  # with nothing to do
        assert gone(second, 5)
        assert box.submit("on").result(60) == "on"


def test_a_fault_of_the_function_is_told() -> None:
    with Sandbox(work) as box:
        with pytest.raises(SluiceError, match="ValueError: 17"):
            box.submit(("raise", 17)).result(60)
        assert box.submit("on").result(60) == "on"


def test_an_answer_is_no_way_into_the_parent() -> None:
    with Sandbox(work) as box:
        assert math.isnan(box.submit(("class", 1)).result(60))
        with pytest.raises(CrashedError):
            box.submit(("class", 0)).result(60)


def test_a_function_that_the_child_cannot_import_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Elsewhere:
        @staticmethod
        def function() -> None: ...

    monkeypatch.setattr(sys.modules[__name__], "Elsewhere", Elsewhere, raising=False)
    Elsewhere.function.__qualname__ = "Elsewhere.function"
    with Sandbox(Elsewhere.function) as box, pytest.raises(SluiceError, match="Elsewhere"):
        box.submit().result(60)


def test_closing_ends_the_child_and_cancels_the_rest() -> None:
    box = Sandbox(work)
    pid = box.submit(("pid", 0)).result(60)
    futures = [box.submit(("hang", 60)), box.submit(1), box.submit(2)]
    started = time.monotonic()
    box.close()
    assert time.monotonic() - started < 2
    assert gone(pid, 2)
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(1)
    with pytest.raises(RuntimeError):
        box.submit(3)


def test_a_future_can_be_awaited_and_cancelled() -> None:
    async def several() -> list[object]:
        with Sandbox(work) as box:
            waits = [asyncio.wrap_future(box.submit(number)) for number in range(100)]
            results = await asyncio.gather(*waits[:50])
            waits[-1].cancel()
            return [*results, *await asyncio.gather(*waits[50:-1])]

    assert asyncio.run(several()) == list(range(99))


PARENT = """
import sys, time
from curation.sandbox import Sandbox
box = Sandbox(time.sleep, deadline=1.5)
box.submit(0).result()
box.submit({seconds})
print(box.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("seconds", "within"), [(0, 5), (60, 9)])
def test_the_child_dies_with_its_parent(seconds: int, within: float) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(seconds=seconds)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert gone(pid, within)


def test_control_c_is_for_the_parent() -> None:
    with Sandbox(work) as box:
        pid = box.submit(("pid", 0)).result(60)
        os.kill(pid, signal.SIGINT)
        assert box.submit(("pid", 0)).result(60) == pid
        assert os.getpgid(pid) != os.getpgid(0)


def in_another_process(answers: "multiprocessing.Queue[object]") -> None:
    with Sandbox(work) as box:
        answers.put(box.submit(b"x" * MIB).result(60) == b"x" * MIB)


@pytest.mark.parametrize("daemon", [False, True])
def test_it_works_in_a_spawned_process(daemon: bool) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=in_another_process, args=(answers,), daemon=daemon)
    process.start()
    assert answers.get(timeout=60) is True
    process.join(60)
    assert process.exitcode == 0


def sandboxed(item: bytes) -> bytes:
    with Sandbox(work) as box:
        return box.submit(item).result(60)


@pytest.mark.parametrize("kind", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_it_works_in_the_workers_of_every_runner(kind: str) -> None:
    items = [bytes([number]) * MIB for number in range(4)]
    with make_runner(kind, 2) as runner:
        assert [result for _, result in sorted(runner.map(sandboxed, items))] == items


def test_the_child_is_light_and_soon_there() -> None:
    settings = ResizeSettings(mode="center_crop", size=64)
    function: Callable[..., Transformed] = partial(transform, settings=settings)
    with Sandbox(function) as box:
        started = time.monotonic()
        assert box.submit(b"no image").result(60).reason == "not_an_image"
        assert time.monotonic() - started < 5  # some 0.2 seconds on an idle machine
        assert box.pid is not None
        child = psutil.Process(box.pid)
        names = {mapping.path for mapping in child.memory_maps()}
        assert not [name for name in names if "torch" in name or "arrow" in name]
        assert child.memory_full_info().pss < 80 * MIB
        assert child.num_threads() == 1
