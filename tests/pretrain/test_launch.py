import asyncio
import contextlib
import json
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra import artifacts
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from pretrain import launch
from pretrain.data import Source
from pretrain.desk import Desk, State
from pretrain.job import Job
from pretrain.run import run_draft, train


def test_the_desk_hands_out_jobs_in_order() -> None:
    async def play() -> None:
        desk = Desk()
        await desk.submit("a", b"A")
        await desk.submit("b", b"B")
        assert await desk.take(11) == b"A"
        assert await desk.tell(5, "loss 1")
        assert await desk.look("a") == State(5, "loss 1", worker=11)
        assert await desk.look("b") == State()
        await desk.finish(None)
        assert (await desk.look("a")).done
        assert await desk.take(11) == b"B"
        await desk.finish(("what", "way out"))
        assert (await desk.look("b")).failure == ("what", "way out")

    asyncio.run(play())


def test_the_desk_gives_a_lost_workers_job_to_the_next() -> None:
    async def play() -> None:
        desk = Desk()
        await desk.submit("a", b"A")
        await desk.submit("b", b"B")
        assert await desk.take(11) == b"A"
        assert await desk.take(12) == b"A"
        assert (await desk.look("a")).worker == 12

    asyncio.run(play())


def test_the_desk_lets_a_worker_wait_and_then_go() -> None:
    async def play() -> None:
        desk = Desk()
        waiting = asyncio.create_task(desk.take(11))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await desk.submit("a", b"A")
        assert await waiting == b"A"
        await desk.finish(None)
        await desk.close()
        assert await desk.take(11) is None

    asyncio.run(play())


def test_the_desk_calls_a_worker_off() -> None:
    async def play() -> None:
        desk = Desk()
        await desk.submit("a", b"A")
        assert await desk.take(11) == b"A"
        await desk.close()
        assert not await desk.tell(5, "loss 1")

    asyncio.run(play())


def test_a_job_travels_as_bytes_with_whole_paths(
    small: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.safetensors").touch()
    settings = small("mae", pretrained="weights.safetensors")
    job = Job("store/run", "digest", settings, (Source("store/data", 2.0), Source("s3://b/data")))
    found = pickle.loads(pickle.dumps(launch._absolute(job)))
    assert found.url == str(tmp_path / "store/run")
    assert found.sources == (Source(str(tmp_path / "store/data"), 2.0), Source("s3://b/data"))
    assert found.settings.pretrained == str(tmp_path / "weights.safetensors")
    assert found.settings.options == settings.options


def digest(url: str) -> str:
    artifact = artifacts.load(url)
    assert artifact is not None
    return artifact.digest


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    import ray

    from infra.ray_runner import start_ray, stop_ray

    start_ray(2)
    yield ray
    launch.close()
    stop_ray("local")


@pytest.mark.ray
def test_on_ray_the_bytes_are_the_same(
    ray: Any, pairs: str, small: Callable[..., Any], tmp_path: Path
) -> None:
    """Two runs one after the other, by one worker, and one that cannot be."""
    contents: dict[tuple[str, str], str] = {}
    workers: set[int] = set()
    for objective in ("mae", "clip"):
        settings = small(objective)
        for launcher in ("local", "ray"):
            store = str(tmp_path / launcher)
            draft = run_draft(store, objective, settings, {"pairs": digest(pairs)})
            run = train(draft, [Source(pairs)], settings, launcher, SilentDisplay())
            contents[objective, launcher] = run.content
        workers |= launch._sessions[0].workers
        assert contents[objective, "local"] == contents[objective, "ray"]
    assert len(launch._sessions) == 1
    assert len(workers) == 1
    settings = small("mae", pretrained="nowhere")
    draft = run_draft(str(tmp_path), "mae", settings, {"pairs": digest(pairs)})
    with pytest.raises(SluiceError, match="weights nowhere do not fit") as caught:
        train(draft, [Source(pairs)], settings, "ray", SilentDisplay())
    assert "leave `pretrained` out" in caught.value.way_out
    assert launch._sessions[0].alive


@pytest.mark.ray
def test_a_killed_worker_is_replaced_and_the_bytes_are_the_same(
    ray: Any, pairs: str, small: Callable[..., Any], tmp_path: Path
) -> None:
    settings = small("mae", steps=600, checkpoint_every=50)
    jobs = [Job(str(tmp_path / n), "d", settings, (Source(pairs),)) for n in ("whole", "killed")]
    from pretrain.loop import run

    run(jobs[0], lambda step, note: None)
    killed: list[int] = []

    def progress(step: int, note: str) -> None:
        if 60 < step < 600 and not killed:
            session = next(session for session in launch._sessions if session.busy)
            state = ray.get(session._desk.look.remote(jobs[1].url))
            killed.append(state.worker)
            os.kill(state.worker, signal.SIGKILL)

    launch.run_on_ray(jobs[1], progress)
    assert len(killed) == 1
    assert all(len(session.workers) == 1 for session in launch._sessions)
    for name in ("model.safetensors", "metrics.jsonl", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.slow
def test_a_desk_that_is_lost_is_replaced_and_the_bytes_are_the_same(
    ray: Any, pairs: str, small: Callable[..., Any], tmp_path: Path
) -> None:
    """With the node that it was on, say."""
    settings = small("mae", steps=300, checkpoint_every=50)
    jobs = [Job(str(tmp_path / n), "d", settings, (Source(pairs),)) for n in ("whole", "lost")]
    from pretrain.loop import run

    run(jobs[0], lambda step, note: None)
    lost: list[int] = []

    def progress(step: int, note: str) -> None:
        if 60 < step < 300 and not lost:
            lost.append(step)
            ray.kill(next(session for session in launch._sessions if session.busy)._desk)

    launch.run_on_ray(jobs[1], progress)
    assert len(lost) == 1
    for name in ("model.safetensors", "metrics.jsonl", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "lost" / name).read_bytes()
    settings = small("mae", steps=10**6, max_failures=0)
    job = Job(str(tmp_path / "again"), "d", settings, (Source(pairs),))

    def always(step: int, note: str) -> None:
        ray.kill(next(session for session in launch._sessions if session.busy)._desk)

    with pytest.raises(SluiceError, match="is led by 1 times"):
        launch.run_on_ray(job, always)


@pytest.mark.ray
def test_a_wait_that_is_cut_short_does_not_hold_up_the_next_run(
    ray: Any, pairs: str, small: Callable[..., Any], tmp_path: Path
) -> None:
    def interrupted(step: int, note: str) -> None:
        raise KeyboardInterrupt

    long = Job(str(tmp_path / "long"), "d", small("mae", steps=10**6), (Source(pairs),))
    with pytest.raises(KeyboardInterrupt):
        launch.run_on_ray(long, interrupted)
    launch.run_on_ray(
        replace(long, url=str(tmp_path / "next"), settings=small("mae")), lambda step, note: None
    )
    assert (tmp_path / "next" / "model.safetensors").exists()


@pytest.mark.ray
def test_a_worker_that_always_dies_ends_the_run_and_not_the_next(
    ray: Any, pairs: str, small: Callable[..., Any], tmp_path: Path
) -> None:
    settings = small("mae", steps=5000, max_failures=0)
    job = Job(str(tmp_path / "dies"), "d", settings, (Source(pairs),))

    def progress(step: int, note: str) -> None:
        session = next(session for session in launch._sessions if session.busy)
        state = ray.get(session._desk.look.remote(job.url))
        with contextlib.suppress(ProcessLookupError):  # it may be dead already
            os.kill(state.worker, signal.SIGKILL)

    with pytest.raises(SluiceError, match="worker was lost 1 times, the last time at step"):
        launch.run_on_ray(job, progress)
    short = replace(job, url=str(tmp_path / "next"), settings=small("mae", max_failures=0))
    launch.run_on_ray(short, lambda step, note: None)
    assert (tmp_path / "next" / "model.safetensors").exists()


@pytest.mark.ray
def test_a_training_that_finds_no_room_says_so_and_begins_once_there_is(
    ray: Any, pairs: str, small: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretrain.launch.LACK", 1.0)

    @ray.remote(num_cpus=1)
    class Other:
        def there(self) -> None:
            return None

    launch.close()
    others = [Other.remote() for _ in range(int(ray.cluster_resources()["CPU"]))]
    ray.get([other.there.remote() for other in others])
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        while others:
            ray.kill(others.pop())

    job = Job(str(tmp_path / "run"), "d", small("mae"), (Source(pairs),))
    launch.run_on_ray(job, lambda step, note: None, say=say)
    assert said[0].startswith("no worker of the training for 1.")
    assert "each needs a processor, and 0 processors and 0 GPUs are free" in said[0]
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.long
@pytest.mark.ray
def test_a_training_that_finds_no_room_for_too_long_ends(
    ray: Any, pairs: str, small: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretrain.launch.LACK", 0.5)
    monkeypatch.setattr("pretrain.launch.patience", lambda local: 1.0)
    job = Job(str(tmp_path / "run"), "d", small("mae", workers=1), (Source(pairs),))
    launch.close()
    with pytest.raises(SluiceError, match="no worker of the training") as caught:
        launch.run_on_ray(job, lambda step, note: None, say=lambda text: None)
    assert "it goes on from the last checkpoint" in caught.value.way_out


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_share_a_run_and_go_on_when_one_is_killed(
    ray: Any, pairs: str, small: Callable[..., Any], tmp_path: Path
) -> None:
    settings = small("mae", steps=400, checkpoint_every=50, log_every=400)
    alone = Job(str(tmp_path / "alone"), "d", settings, (Source(pairs),))
    shared = replace(
        alone, url=str(tmp_path / "two"), settings=settings.model_copy(update={"workers": 2})
    )
    from pretrain.loop import run

    run(alone, lambda step, note: None)
    killed: list[int] = []
    seen: list[int] = []

    def progress(step: int, note: str) -> None:
        seen.append(step)
        if 60 < step < 400 and not killed:
            session = next(session for session in launch._sessions if session.busy)
            state = ray.get(session._desk.look.remote(shared.url))
            killed.append(state.worker)
            os.kill(state.worker, signal.SIGKILL)

    launch.run_on_ray(shared, progress)
    assert len(killed) == 1 and seen[-1] == 400
    losses = [
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])["loss"]
        for name in ("alone", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)  # sums are rounded in another order
    assert run_draft("s", "n", shared.settings, {"a": "b"}) == run_draft(
        "s", "n", settings, {"a": "b"}
    )
