"""What is asked of one encoder, and how two are compared on the same test samples."""

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from infra.errors import SluiceError
from pretrain.encoders import Encoder
from pretrain.evaluate import intervals
from pretrain.evaluate.intervals import Estimate
from pretrain.evaluate.labelled import encode
from pretrain.evaluate.task import Asked
from pretrain.evaluate.task import task as task_of
from pretrain.evaluate_settings import EvaluateSettings


@dataclass(frozen=True)
class Outcome:
    """What one encoder was found to do.

    answers: for each task that names classes, a class name for each test sample. figures: of the
    other tasks, by task and metric.
    """

    uids: list[str]
    labels: list[str]
    answers: dict[str, list[str]]
    undecodable: int
    notes: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, dict[str, Estimate]] = field(default_factory=dict)

    def right(self, task: str) -> NDArray[np.float64]:
        return correct(self.answers[task], self.labels)

    def rows(self, settings: EvaluateSettings) -> list[dict[str, Any]]:
        """The rows of all tasks, without encoder and seed."""
        return [
            row
            for name in settings.tasks
            for row in (
                figures(name, self.right(name), self.labels, settings)
                if name in self.answers
                else [_row(name, *each) for each in self.figures.get(name, {}).items()]
            )
        ]


def correct(answers: Sequence[str], labels: Sequence[str]) -> NDArray[np.float64]:
    """1 where an answer is the label, else 0."""
    pairs = zip(answers, labels, strict=True)
    return np.asarray([answer == label for answer, label in pairs], np.float64)


@contextlib.contextmanager
def single_thread() -> Generator[None]:
    """One thread inside: sums keep their order, whatever the machine or the worker has."""
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


def evaluate(
    encoder: Encoder,
    train_url: str,
    test_url: str,
    settings: EvaluateSettings,
    outside_url: str = "",
) -> Outcome:
    """Encode the splits once and do every task the encoder can do.

    URLs are of dataset versions, or of Parquet with image bytes; outside_url: of other classes.
    """
    tasks = {name: task_of(name) for name in settings.tasks}
    labels = any(each.labels for each in tasks.values())
    train, test = (
        encode(url, settings.label, encoder, labels, settings.captions, settings.labels)
        for url in (train_url, test_url)
    )
    outside = None
    if outside_url and "out_of_distribution" in tasks:
        outside = encode(outside_url, settings.label, encoder, required=False)
    asked = Asked(encoder, train, test, settings, test_url, outside)
    notes: dict[str, Any] = {
        "classes": len(asked.classes),
        "dimension": int(test.features.shape[1]),
        "train": len(train.uids),
        "train_undecodable": train.undecodable,
    }
    answers: dict[str, list[str]] = {}
    found: dict[str, dict[str, Estimate]] = {}
    for name, each in tasks.items():
        reply = each.run(asked)
        if reply is None:
            continue
        if reply.answers is not None:
            answers[name] = [asked.classes[number] for number in reply.answers]
        found[name] = reply.figures
        notes.update(reply.notes)
    return Outcome(test.uids, test.labels, answers, test.undecodable, notes, found)


def figures(
    task: str, right: NDArray[np.float64], labels: Sequence[str], settings: EvaluateSettings
) -> list[dict[str, Any]]:
    """The rows of one task: both metrics with their intervals; without encoder and seed."""
    numbers = np.unique(np.asarray(labels), return_inverse=True)[1].astype(np.int64)
    estimates = intervals.accuracies(
        right, numbers, settings.resamples, settings.confidence, settings.seed
    )
    return [_row(task, metric, estimate) for metric, estimate in estimates.items()]


def _row(task: str, metric: str, estimate: Estimate) -> dict[str, Any]:
    return {
        "task": task,
        "metric": metric,
        "value": estimate.value,
        "ci_low": estimate.low,
        "ci_high": estimate.high,
        "n": estimate.n,
    }


def compare(answers: Mapping[str, pa.Table], settings: EvaluateSettings) -> list[dict[str, Any]]:
    """The rows of `settings.compare`, from the predictions of the encoders it names.

    A row a pair, task and metric: a - b on the same resamples. For several pairs also their
    mean under the comparison's name, metric "..._over_seeds".
    """
    rows: list[dict[str, Any]] = []
    for comparison in settings.compare:
        collected: dict[tuple[str, str], list[float]] = {}
        for first, second in comparison.pairs:
            for row in _difference(answers[first], answers[second], (first, second), settings):
                collected.setdefault((row["task"], row["metric"]), []).append(row["value"])
                rows.append({"encoder": f"{first} - {second}", "seed": None, **row})
        for (task, metric), values in collected.items():
            if len(values) > 1:
                estimate = intervals.over_seeds(values, settings.confidence)
                row = _row(task, f"{metric}_over_seeds", estimate)
                rows.append({"encoder": comparison.name, "seed": None, **row})
    return rows


def _difference(
    first: pa.Table, second: pa.Table, names: tuple[str, str], settings: EvaluateSettings
) -> list[dict[str, Any]]:
    if first["uid"] != second["uid"]:
        raise SluiceError(
            f"{names[0]} and {names[1]} were not evaluated on the same samples",
            "remove this evaluation's folder and run again",
        )
    labels = first["label"].to_pylist()
    rows: list[dict[str, Any]] = []
    for task in settings.tasks:
        if task in first.column_names and task in second.column_names:
            right = [correct(table[task].to_pylist(), labels) for table in (first, second)]
            rows += figures(task, right[0] - right[1], labels, settings)
    return rows
