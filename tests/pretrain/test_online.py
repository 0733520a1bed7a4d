"""Runs asked what they have learnt while they train."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra import artifacts, dataset
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from pretrain import encoders, sinks
from pretrain.data import Source
from pretrain.evaluate import tasks
from pretrain.evaluate_settings import OnlineSettings
from pretrain.job import Job
from pretrain.launch import _absolute
from pretrain.loop import run
from pretrain.online import ASKED, TIMES, took
from pretrain.run import job_of, run_draft, train
from pretrain.settings import TrainSettings
from tests.pretrain.test_loop import StoppedError, files, go, stop_at
from tests.pretrain.test_ranks import together

TASKS: dict[str, Any] = {"tasks": ["knn", "zero_shot"], "neighbours": 5, "resamples": 100}


def asked(url: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(url) / ASKED).read_text().splitlines()]


@pytest.fixture
def asking(colour_splits: tuple[str, str]) -> dict[str, Any]:
    """Settings of a run that is asked every four steps."""
    train, test = colour_splits
    return {"evaluate_every": 4, "evaluate": {**TASKS, "train": train, "test": test}}


@pytest.mark.parametrize(("objective", "changes"), [("clip", {"ema": 0.8}), ("dino", {})])
def test_a_run_that_is_asked_is_the_same_to_the_last_bit(
    objective: str,
    changes: dict[str, Any],
    pairs: str,
    small: Callable[..., TrainSettings],
    asking: dict[str, Any],
    tmp_path: Path,
) -> None:
    """With two threads: those of the views are not those that ask. The last rows are the run's."""
    changes = {"steps": 5, "threads": 2, "batch": 4, **changes}
    settings = [small(objective, **changes), small(objective, **changes, **asking)]
    jobs = [
        Job(str(tmp_path / str(every)), "d", each, (Source(pairs),))
        for every, each in enumerate(settings)
    ]
    for job in jobs:
        run(job, go)
    assert files(jobs[0].url) == files(jobs[1].url)
    assert settings[0].identity() == settings[1].identity()
    rows = asked(jobs[1].url)
    assert not (Path(jobs[0].url) / ASKED).exists()
    assert list(dict.fromkeys(row["step"] for row in rows)) == [0, 4, 5]
    assert {row["task"] for row in rows} == {"knn", *(["zero_shot"] if objective == "clip" else [])}
    with tasks.single_thread():
        question = settings[1].evaluate
        found = tasks.evaluate(
            encoders.load(jobs[1].url), question.train, question.test, question
        ).rows(question)
    assert [row for row in rows if row["step"] == 5] == [
        {"step": 5, **row, "seed": settings[1].seed} for row in found
    ]


def test_rows_are_neither_lost_nor_doubled_by_a_stop(
    pairs: str, small: Callable[..., Any], asking: dict[str, Any], tmp_path: Path
) -> None:
    """Checkpoints stand at 4 and 8: stopped after a row beyond one, and after none."""
    changes = {"steps": 10, "checkpoint_every": 4, **asking, "evaluate_every": 3}
    settings = small("mae", **changes)
    whole, broken = (
        Job(str(tmp_path / name), "d", settings, (Source(pairs),)) for name in ("whole", "broken")
    )
    run(whole, go)
    for step, there in ((2, [0]), (8, [0, 3, 6]), (10, [0, 3, 6, 9])):
        with pytest.raises(StoppedError):
            run(broken, stop_at(step))
        assert list(dict.fromkeys(row["step"] for row in asked(broken.url))) == there
    run(broken, go)
    assert asked(broken.url) == asked(whole.url)
    for job in (whole, broken):
        times = [json.loads(line) for line in (Path(job.url) / TIMES).read_text().splitlines()]
        assert [each["step"] for each in times] == [0, 3, 6, 9, 10]
        assert [each["seconds"] for each in times] == sorted(each["seconds"] for each in times)
        assert took(job.url) == [each["took"] for each in times]
        assert min(took(job.url)) > 0
    assert [row["step"] for row in asked(whole.url)[::2]] == [0, 3, 6, 9, 10]
    assert files(broken.url) == files(whole.url)


def test_loggers_and_the_terminal_hear_of_it(
    pairs: str,
    small: Callable[..., Any],
    asking: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Sink:
        lines: list[tuple[int, Any]] = []  # noqa: RUF012

        def write(self, step: int, figures: Any) -> None:
            self.lines.append((step, figures))

        def alarm(self, alarm: Any) -> None:
            pass

        def close(self) -> None:
            pass

    monkeypatch.setattr(sinks, "open_sinks", lambda *given: [Sink()])
    notes: list[str] = []
    settings = small("mae", steps=5, **asking)
    job = Job(str(tmp_path), "d", settings, (Source(pairs),))
    run(job, lambda step, pulse: notes.append(pulse.note))
    heard = {step: given for step, given in Sink.lines if "evaluate/knn/accuracy" in given}
    told = {row["step"]: row["value"] for row in asked(job.url) if row["metric"] == "accuracy"}
    assert {step: given["evaluate/knn/accuracy"] for step, given in heard.items()} == told
    assert sorted(told) == [0, 4, 5]
    assert notes[0].endswith(f", knn {told[0]:.3f}") and notes[-1].endswith(f", knn {told[4]:.3f}")


def test_what_cannot_be_asked_is_said_before_the_first_step(
    pairs: str, small: Callable[..., Any], asking: dict[str, Any], tmp_path: Path
) -> None:
    for number, (change, message) in enumerate(
        [
            ({"tasks": ["zero_shot", "retrieval"]}, "mae can do none of them"),
            ({"label": "breed"}, "no field 'breed'"),
            ({"test": str(tmp_path / "nowhere")}, "no dataset version at"),
        ]
    ):
        given = {**asking, "evaluate": {**asking["evaluate"], **change}}
        job = Job(str(tmp_path / str(number)), "d", small("mae", **given), (Source(pairs),))
        with pytest.raises(SluiceError, match=message):
            run(job, stop_at(1))


def test_samples_are_found_by_their_names_in_the_runs_store(
    pairs: str, colour_splits: tuple[str, str], small: Callable[..., Any], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    versions = [artifacts.load(url) for url in (pairs, *colour_splits)]
    for name, version in zip(("pairs", "trusted", "evaluation"), versions, strict=True):
        assert version
        (store / name).mkdir(parents=True)
        (store / name / version.digest).symlink_to(version.url)
        dataset.publish(str(store), name, version)
    settings = small("mae", steps=2, evaluate_every=2, evaluate=TASKS)
    digests = {"pairs": versions[0].digest}  # type: ignore[union-attr]
    draft = run_draft(str(store), "mine", settings, digests)
    job = job_of(draft, [], settings)
    assert job.settings.evaluate.test.startswith(f"{store}/evaluation/")
    made = train(draft, [Source(pairs)], settings, "local", SilentDisplay())
    assert [row["step"] for row in asked(made.url)] == [0, 0, 2, 2]
    assert ASKED not in {file.path for part in made.parts for file in part.files}
    wrong = small("mae", evaluate_every=2, evaluate={**TASKS, "train": "trusty"})
    with pytest.raises(SluiceError, match="no dataset 'trusty'"):
        job_of(draft, [], wrong)


def test_a_worker_elsewhere_finds_the_samples(small: Callable[..., Any], tmp_path: Path) -> None:
    given = {"evaluate_every": 2, "evaluate": {**TASKS, "train": "a.parquet", "test": "s3://b/c"}}
    there = _absolute(Job(str(tmp_path), "d", small("mae", **given), ())).settings.evaluate
    assert there.places == {"train": str(Path("a.parquet").resolve()), "test": "s3://b/c"}


def test_a_run_is_not_compared_with_others() -> None:
    pair = {"name": "x", "pairs": [["a", "b"]]}
    with pytest.raises(ValueError, match="a run is asked alone"):
        OnlineSettings.model_validate({"compare": [pair]})


RUN = """
import json, sys
from torch import distributed
from pretrain.data import Source
from pretrain.job import Job
from pretrain.launch import _absolute
from pretrain.loop import run
from pretrain.settings import TrainSettings
distributed.init_process_group("gloo")
for url, settings, source in json.load(open(sys.argv[1])):
    run(Job(url, "d", TrainSettings.model_validate(settings), (Source(source),)), lambda *_: None)
distributed.destroy_process_group()
"""


@pytest.mark.long
@pytest.mark.slow
def test_one_of_several_processes_asks(
    pairs: str, small: Callable[..., Any], asking: dict[str, Any], tmp_path: Path
) -> None:
    """Whole copies and pieces; the same bytes with and without, and figures near those of one."""
    jobs: list[tuple[str, Any, str]] = []
    for name, kind in (("plain", "fsdp"), ("fsdp", "fsdp"), ("ddp", "ddp")):
        given = {} if name == "plain" else asking
        settings = small("clip", steps=2, ema=0.8, sharding=kind, **given)
        jobs.append((str(tmp_path / name), settings.model_dump(mode="json"), pairs))
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    together(2, "-c", RUN, str(tmp_path / "jobs.json"))
    assert files(str(tmp_path / "plain")) == files(str(tmp_path / "fsdp"))
    settings = small("clip", steps=2, ema=0.8, **asking)
    run(Job(str(tmp_path / "one"), "d", settings, (Source(pairs),)), go)
    rows = [asked(str(tmp_path / name)) for name in ("one", "ddp", "fsdp")]
    assert [row["step"] for row in rows[0]] == [0, 0, 0, 0, 2, 2, 2, 2]
    for one, ddp, fsdp in zip(*rows, strict=True):
        assert one["value"] == pytest.approx(ddp["value"], abs=0.1)
        assert one["value"] == pytest.approx(fsdp["value"], abs=0.1)
