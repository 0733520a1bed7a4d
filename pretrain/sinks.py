"""Where a run's metrics go besides its own files: TensorBoard, Weights & Biases, MLflow, if named.

All write files and nothing leaves the machine, unless the tools' own variables say where to:
WANDB_MODE=online, MLFLOW_TRACKING_URI. None of them is a part of the run's content.
"""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from infra import filesystem
from infra.errors import SluiceError
from infra.filesystem import join
from pretrain.health import Alarm
from pretrain.settings import TrainSettings

# By the name of a logger, which is that of an extra of ours, too, the package it is written by.
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
PROJECT = "sluice"


class Sink(Protocol):
    """One place metrics go to."""

    def write(self, step: int, figures: Mapping[str, float]) -> None: ...
    def alarm(self, alarm: Alarm) -> None: ...
    def close(self) -> None: ...


def check(loggers: Sequence[str]) -> None:
    """SluiceError for one that is not installed here; asked before anything is built."""
    for name in loggers:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise SluiceError(
                f"loggers names {name}, but the package {PACKAGES[name]} is not installed here",
                f"run `pip install 'sluice[{name}]'` on every machine that trains, or take {name} "
                "out of loggers",
            )


def open_sinks(settings: TrainSettings, url: str, step: int) -> list[Sink]:
    """The loggers that `settings` name, of the run at `url` that goes on after `step`.

    Called by the first process alone. SluiceError as of `check`.
    """
    check(settings.loggers)
    kinds: dict[str, Any] = {
        "tensorboard": TensorBoard,
        "wandb": WeightsAndBiases,
        "mlflow": MLflow,
    }
    return [kinds[name](settings, url, step) for name in settings.loggers]


def folder(url: str, logger: str) -> str:
    """Of a logger's files: in the run's own, or under `logs` here if that is on no disk."""
    place = join(url, "logs") if filesystem.is_local(url) else str(Path("logs", *_names(url)))
    path = Path(place.removeprefix("file://"), logger)
    path.mkdir(parents=True, exist_ok=True)
    return str(path.resolve())


def _names(url: str) -> tuple[str, str]:
    """Of a run: its name and its digest."""
    name, digest = url.rstrip("/").rsplit("/", 2)[-2:]
    return name, digest


class TensorBoard:
    """Event files; `tensorboard --logdir STORE/runs` shows all runs."""

    def __init__(self, settings: TrainSettings, url: str, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What a run wrote after the checkpoint from which it now goes on is hidden.
        purge = step + 1 if step else None
        self._writer: Any = SummaryWriter(folder(url, "tensorboard"), purge_step=purge)
        self._writer.add_text("settings", f"```\n{settings.model_dump_json(indent=1)}\n```", step)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def alarm(self, alarm: Alarm) -> None:
        self._writer.add_text(f"alarms/{alarm.name}", str(alarm), alarm.step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of the project sluice, under the run's digest; offline unless WANDB_MODE says not."""

    def __init__(self, settings: TrainSettings, url: str, step: int) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        name, digest = _names(url)
        self._run: Any = wandb.init(  # pyright: ignore[reportUnknownMemberType]
            project=PROJECT,
            name=name,
            id=digest,
            resume="allow",
            dir=folder(url, "wandb"),
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=settings.model_dump(mode="json"),
        )

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def alarm(self, alarm: Alarm) -> None:
        self._run.alert(title=alarm.name, text=str(alarm))

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of the experiment sluice; in a database beside the run unless MLFLOW_TRACKING_URI."""

    def __init__(self, settings: TrainSettings, url: str, step: int) -> None:
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        place = Path(folder(url, "mlflow"))
        asked = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{place / 'mlflow.db'}")
        self._client: Any = MlflowClient(tracking_uri=asked)
        name, digest = _names(url)
        found = self._client.get_experiment_by_name(PROJECT)
        artifacts = None if "MLFLOW_TRACKING_URI" in os.environ else place.as_uri()
        experiment = (
            found.experiment_id if found else self._client.create_experiment(PROJECT, artifacts)
        )
        runs = self._client.search_runs([experiment], f"tags.digest = '{digest}'")
        tags = {"digest": digest}
        run = runs[0] if runs else self._client.create_run(experiment, run_name=name, tags=tags)
        self._id = run.info.run_id
        if not runs:
            for field, value in settings.model_dump(mode="json").items():
                self._client.log_param(self._id, field, str(value)[:500])

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._client.log_metric(self._id, name, value, step=step)

    def alarm(self, alarm: Alarm) -> None:
        self._client.set_tag(self._id, f"alarm.{alarm.name}", str(alarm))

    def close(self) -> None:
        self._client.set_terminated(self._id)
