import importlib.util
import json
import re
import sqlite3
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.errors import SluiceError
from pretrain.health import Alarm
from pretrain.sinks import PACKAGES, check, folder, open_sinks

FIGURES = {"loss": 0.5, "lr": 0.001}
ALARM = Alarm("spike", 4, "the loss is 9", "lower lr")


def needs(name: str) -> pytest.MarkDecorator:
    there = importlib.util.find_spec(PACKAGES[name]) is not None
    return pytest.mark.skipif(not there, reason=f"{PACKAGES[name]} is not installed")


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for variable in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    return str(tmp_path / "runs" / "mine" / "0123abcd")


def log(settings: Any, url: str, first: int = 0) -> None:
    [sink] = open_sinks(settings, url, first)
    for step in range(first + 1, first + 4):
        sink.write(step, FIGURES | {"loss": step / 10})
    sink.alarm(ALARM)
    sink.close()


@pytest.mark.parametrize("name", PACKAGES)
def test_one_that_is_not_installed_is_an_error_that_names_the_package(
    name: str, small: Callable[..., Any], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    settings = small("mae", loggers=[name])
    with pytest.raises(SluiceError, match=f"package {PACKAGES[name]} is not installed") as caught:
        open_sinks(settings, url, 0)
    assert f"pip install 'sluice[{name}]'" in str(caught.value)
    with pytest.raises(SluiceError):
        check(settings.loggers)
    assert not Path(url).exists()


def test_each_has_an_extra_of_its_name_that_installs_its_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    asked = {name: re.split(r"[<>=]", extras[name][0])[0] for name in PACKAGES}
    assert asked == PACKAGES


def test_none_is_opened_unless_named(small: Callable[..., Any], url: str) -> None:
    assert open_sinks(small("mae"), url, 0) == []
    with pytest.raises(ValueError, match="loggers"):
        small("mae", loggers=["carrier pigeon"])


def test_loggers_are_no_part_of_what_a_run_is(small: Callable[..., Any]) -> None:
    assert small("mae", loggers=["tensorboard"]).identity() == small("mae").identity()


def test_files_are_in_the_runs_folder_or_here(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert folder(url, "wandb") == f"{url}/logs/wandb"
    assert folder("memory://store/runs/mine/0123", "wandb") == f"{tmp_path}/logs/mine/0123/wandb"


@needs("tensorboard")
def test_tensorboard_has_what_was_written(small: Callable[..., Any], url: str) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = small("mae", loggers=["tensorboard"])
    log(settings, url)
    log(settings, url, first=1)  # goes on from step 1: what came after is hidden
    events = EventAccumulator(folder(url, "tensorboard"))
    events.Reload()
    assert [each.step for each in events.Scalars("loss")] == [1, 2, 3, 4]
    assert events.Scalars("lr")[0].value == pytest.approx(0.001)
    assert "alarms/spike/text_summary" in events.Tags()["tensors"]


@needs("wandb")
def test_wandb_stays_offline(small: Callable[..., Any], url: str) -> None:
    log(small("mae", loggers=["wandb"]), url)
    runs = list(Path(url).glob("logs/wandb/wandb/offline-run-*"))
    assert len(runs) == 1
    assert runs[0].name.endswith("0123abcd")


@needs("mlflow")
def test_mlflow_has_what_was_written(small: Callable[..., Any], url: str) -> None:
    settings = small("mae", loggers=["mlflow"])
    log(settings, url)
    log(settings, url, first=3)  # one run, that goes on
    with sqlite3.connect(f"{url}/logs/mlflow/mlflow.db") as database:
        found = database.execute("select step, value from metrics where key = 'loss'").fetchall()
        runs = database.execute("select name from runs").fetchall()
        params = dict(database.execute("select key, value from params").fetchall())
    assert sorted(step for step, _ in found) == [1, 2, 3, 4, 5, 6]
    assert runs == [("mine",)]
    assert json.loads(params["batch"]) == settings.batch
