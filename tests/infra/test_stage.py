"""A stage makes what is missing, once, and goes on where a killed run was."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from infra import artifacts, filesystem, stage
from infra.artifacts import Part, Spec, load, verify
from infra.errors import PauseError, SluiceError
from infra.progress import PlainDisplay, SilentDisplay
from infra.runner import InlineRunner, LostError, make_runner, own_processors, processors
from infra.stage import Draft, Item, run_stage
from tests.infra.counting import ITEMS, SHARDS, Count, drafts, run, total


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The contents that an undisturbed run gives."""
    made = run(str(tmp_path_factory.mktemp("reference")), workers=0)
    return {name: artifact.content for name, artifact in made.items()}


def contents(url: str) -> dict[str, str]:
    made = {name: load(draft.url) for name, draft in drafts(url).items()}
    return {name: artifact.content for name, artifact in made.items() if artifact}


def test_a_stage_makes_every_draft(tmp_path: Path) -> None:
    made = run(str(tmp_path), workers=0)
    assert set(made) == {"one", "two"}
    for name, artifact in made.items():
        assert artifact.digest == drafts(str(tmp_path))[name].spec.digest
        assert [part.name for part in artifact.parts] == [item.name for item in ITEMS]
        assert artifact.manifest["extra"] == {"squares": sum(n * n for n in range(SHARDS))}
        assert artifact.totals["rows"] == 3 * SHARDS
        assert artifact.totals["rows"] == artifact.totals["kept"] + sum(
            artifact.totals["dropped"].values()
        )
        assert verify(artifact) == []
        assert artifact.timing()["seconds"] >= 0


def test_the_number_of_workers_does_not_matter(tmp_path: Path, reference: dict[str, str]) -> None:
    for workers in (1, 2):
        made = run(str(tmp_path / str(workers)), workers)
        assert {name: artifact.content for name, artifact in made.items()} == reference


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    url, log = str(tmp_path / "store"), tmp_path / "log"
    first = run(url, 0, Count(url, log=str(log)))
    log.unlink()
    assert run(url, 0, Count(url, log=str(log))) == first
    assert not log.exists()


def test_a_draft_added_later_is_made_alone(tmp_path: Path) -> None:
    url, log = str(tmp_path / "store"), tmp_path / "log"
    run(url, 0)
    filesystem.remove_tree(drafts(url)["two"].url)
    run(url, 0, Count(url, log=str(log)))
    assert log.read_text().splitlines() == [f"{shard} two" for shard in range(SHARDS)]


def test_after_a_failure_only_the_rest_is_done(tmp_path: Path, reference: dict[str, str]) -> None:
    url, log = str(tmp_path / "store"), tmp_path / "log"
    with pytest.raises(SluiceError, match="shard 00005 is missing"):
        run(url, 0, Count(url, refuse=5))
    assert contents(url) == {}
    run(url, 0, Count(url, log=str(log)))
    assert log.read_text().splitlines() == [f"{shard} one two" for shard in (5, 6, 7)]
    assert contents(url) == reference


def test_an_item_half_done_is_finished(tmp_path: Path, reference: dict[str, str]) -> None:
    url, log = str(tmp_path / "store"), tmp_path / "log"
    with pytest.raises(SluiceError):
        run(url, 0, Count(url, refuse=1))
    record = Path(drafts(url)["two"].url, artifacts.PARTS, "00000.json")
    record.unlink()  # as if killed between the two records
    run(url, 0, Count(url, log=str(log)))
    assert log.read_text().splitlines()[0] == "0 two"
    assert contents(url) == reference


def test_what_a_kill_after_the_commit_left_is_swept_up(tmp_path: Path) -> None:
    url = str(tmp_path / "store")
    made = run(url, 0)["one"]
    parts, temporary = Path(made.url, artifacts.PARTS), Path(made.url, filesystem.TEMPORARY)
    temporary.mkdir(exist_ok=True)
    run(url, 0)
    assert temporary.exists()  # without parts it may be anybody's: a report being written
    parts.mkdir()
    (parts / "00000.json").write_text("{}")
    assert run(url, 0)["one"] == made
    assert not parts.exists() and not temporary.exists()
    assert verify(made) == []


def records(url: str) -> int:
    return len(list(Path(url).glob("*/_parts/*.json")))


def start(url: str, workers: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.infra.counting", url, str(workers)],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(
    tmp_path: Path, reference: dict[str, str]
) -> None:
    url = str(tmp_path / "store")
    chance = random.Random(20240229)
    kills = 0
    for attempt in range(8):
        process = start(url, workers=attempt % 3)
        enough = records(url) + chance.randint(0, 3)
        while process.poll() is None and records(url) < enough:
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.1))
        kills += process.poll() is None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert contents(url) in ({}, reference, {"one": reference["one"]})
    last = start(url, workers=2)
    _, errors = last.communicate()
    assert (last.returncode, errors) == (0, b"")
    assert kills >= 3
    assert contents(url) == reference
    for draft in drafts(url).values():
        artifact = load(draft.url)
        assert artifact is not None
        assert verify(artifact) == []


def test_two_runs_at_once_both_end_well(tmp_path: Path, reference: dict[str, str]) -> None:
    url = str(tmp_path / "store")
    results: list[dict[str, str]] = []

    def other() -> None:
        made = run(url, 0, Count(url, pause=0.002))
        results.append({name: artifact.content for name, artifact in made.items()})

    runs = [threading.Thread(target=other) for _ in range(3)]
    for thread in runs:
        thread.start()
        time.sleep(0.01)
    for thread in runs:
        thread.join()
    assert results == [reference] * 3


def test_a_mistake_names_the_stage_and_the_item(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run_stage(
            "breaking",
            {"": Draft(str(tmp_path), drafts("")["one"].spec)},
            ITEMS,
            lambda value, todo: {"": Part(f"{value:05d}", (), 6 // (2 - value), 6 // (2 - value))},
            InlineRunner(),
            PlainDisplay(lambda _: None),
        )
    (note,) = caught.value.__notes__
    assert "'breaking', item 00002" in note
    assert str(tmp_path) in note


def test_a_stage_that_forgets_a_part_is_found_out(tmp_path: Path) -> None:
    url = str(tmp_path)
    with pytest.raises(SluiceError, match=r"item 00000, asked for .*'one', 'two'"):
        run(url, 0, Count(url, forget="two"))
    assert contents(url) == {}


def test_parts_of_other_items_are_not_committed(tmp_path: Path) -> None:
    url = str(tmp_path)
    with pytest.raises(SluiceError):
        run(url, 0, Count(url, refuse=3))
    with pytest.raises(SluiceError, match="are not those of this run's 1 items"):
        run_stage(
            "counting",
            drafts(url),
            [Item("00007", 7)],
            Count(url),
            InlineRunner(),
            PlainDisplay(lambda _: None),
            total,
        )
    assert contents(url) == {}


class LosingRunner(InlineRunner):
    """A runner whose workers die on the second item."""

    def map(self, *_: object, **__: object) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        raise LostError(1, 3, "its process died")
        yield


def test_a_lost_item_is_named_by_its_shard(tmp_path: Path) -> None:
    url = str(tmp_path)
    with pytest.raises(SluiceError, match="'counting', item 00001 was lost 3 times") as caught:
        run_stage(
            "counting",
            drafts(url),
            ITEMS,
            Count(url),
            LosingRunner(),
            PlainDisplay(lambda _: None),
        )
    assert "finished shards are kept" in caught.value.way_out


def test_progress_tells_what_was_resumed(tmp_path: Path) -> None:
    url = str(tmp_path)
    with pytest.raises(SluiceError):
        run(url, 0, Count(url, refuse=6))
    lines: list[str] = []
    run_stage(
        "counting", drafts(url), ITEMS, Count(url), InlineRunner(), PlainDisplay(lines.append)
    )
    assert lines[0] == "counting: 8 shards to do"
    assert lines[-1].startswith("counting: 8 shards in ")
    assert lines[-1].endswith(", 24 rows, 17 of them rejected")


class Stormy(Count):
    """Work that finds the network down until the log has grown to `calm` lines."""

    calm = 3

    def __call__(self, value: int, todo: list[str]) -> Mapping[str, Part]:
        log = Path(self.log or "")
        tries = len(log.read_text().splitlines()) if log.exists() else 0
        if tries < self.calm and value > 1:
            with log.open("a") as file:
                file.write("down\n")
            raise PauseError("names cannot be resolved", "see to the resolver")
        return super().__call__(value, todo)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stage_waits_where_the_surroundings_fail_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: dict[str, str], workers: int
) -> None:
    monkeypatch.setattr(stage, "PAUSES", (0.01, 0.01, 0.01, 0.01))
    url, said = str(tmp_path / "store"), list[str]()
    work = Stormy(url, log=str(tmp_path / "log"))
    with make_runner("local" if workers else "inline", workers) as runner:
        run_stage("stormy", drafts(url), ITEMS, work, runner, PlainDisplay(said.append), total)
    assert contents(url) == reference
    paused = [line for line in said if "paused" in line]
    assert paused and "names cannot be resolved" in paused[0] and "resolver" in paused[0]


def test_a_stage_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "PAUSES", (0.01, 0.01))
    url = str(tmp_path / "store")
    work = Stormy(url, log=str(tmp_path / "log"))
    object.__setattr__(work, "calm", 1000)
    with pytest.raises(PauseError, match="names cannot be resolved"):
        run_stage("stormy", drafts(url), ITEMS, work, InlineRunner(), SilentDisplay(), total)
    assert len((tmp_path / "log").read_text().splitlines()) > 2
    assert contents(url) == {}


def told(value: int, todo: list[str]) -> Mapping[str, Part]:
    return {"": Part(str(value), (), extra={"processors": own_processors()})}


@pytest.mark.parametrize(("count", "workers_each"), [(1, 2), (4, 1)])
def test_an_item_alone_has_the_processors_of_idle_workers(
    tmp_path: Path, count: int, workers_each: int
) -> None:
    draft = Draft(str(tmp_path), Spec("numbers", "told", {"count": count}))
    items = [Item(str(number), number) for number in range(count)]
    with make_runner("local", 2) as runner:
        made = run_stage("told", {"": draft}, items, told, runner, SilentDisplay())[""]
    expected = min(max(processors() // 2, 1) * workers_each, processors())
    assert {part.extra["processors"] for part in made.parts} == {expected}
