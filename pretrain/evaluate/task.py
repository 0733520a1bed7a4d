"""The contract of a task: what it is asked with, and what it replies.

One file a task, of the task's name, with pure functions on arrays and a `TASK`. A task that is
not for this encoder replies None.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from pretrain.encoders import Encoder
from pretrain.evaluate.intervals import Estimate, Statistic, bootstrap
from pretrain.evaluate.labelled import Labelled
from pretrain.evaluate_settings import EvaluateSettings

if TYPE_CHECKING:  # the modules of tasks import this one
    from pretrain.evaluate.linear_probe import Probe

TextEncoder = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass
class Asked:
    """An encoder, and both splits as it sees them; what several tasks need is made once.

    outside: the version of other classes, for tasks that want one.
    """

    encoder: Encoder
    train: Labelled
    test: Labelled
    settings: EvaluateSettings
    test_url: str
    outside: Labelled | None = None

    @cached_property
    def classes(self) -> list[str]:
        return sorted({*self.train.labels, *self.test.labels})

    @cached_property
    def train_numbers(self) -> NDArray[np.int64]:
        """Class numbers of the train split, [n]."""
        return self._numbers(self.train.labels)

    @cached_property
    def test_numbers(self) -> NDArray[np.int64]:
        return self._numbers(self.test.labels)

    @property
    def encode_texts(self) -> TextEncoder | None:
        """None where the encoder has no text tower."""
        return cast(TextEncoder | None, getattr(self.encoder, "encode_texts", None))

    @cached_property
    def class_vectors(self) -> NDArray[np.float32] | None:
        """Zero-shot vectors of the classes, from the templates; None without a text tower."""
        from pretrain.evaluate import zero_shot

        if self.encode_texts is None:
            return None
        return zero_shot.class_vectors(self.encode_texts, self.classes, self.settings.templates)

    @cached_property
    def strength(self) -> float:
        """Inverse penalty of the linear probe, chosen on a fifth of the train split."""
        from pretrain.evaluate import linear_probe

        return linear_probe.choose(
            self.train.features, self.train_numbers, self.settings.strengths, self.settings.seed
        )

    @cached_property
    def probe(self) -> "Probe":
        """The linear probe, fitted to the whole train split."""
        from pretrain.evaluate import linear_probe

        return linear_probe.fit(self.train.features, self.train_numbers, self.strength)

    def estimate(self, statistic: Statistic, *sizes: int) -> list[Estimate]:
        """`intervals.bootstrap` with this evaluation's settings."""
        asked = self.settings
        return bootstrap(statistic, sizes, asked.resamples, asked.confidence, asked.seed)

    def _numbers(self, labels: Sequence[str]) -> NDArray[np.int64]:
        number = {name: index for index, name in enumerate(self.classes)}
        return np.asarray([number[label] for label in labels], np.int64)


@dataclass(frozen=True)
class Reply:
    """What a task found.

    answers: a class number for each test sample, of which accuracies and paired comparisons are
    made; None for a task that does not name classes. figures: its own, by metric. notes: what
    else should be known, as JSON.
    """

    answers: NDArray[np.int64] | None = None
    figures: dict[str, Estimate] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """run: does the task. labels: whether it needs a class for every sample."""

    run: Callable[[Asked], Reply | None]
    labels: bool = True


def task(name: str) -> Task:
    """The task of this name: `TASK` of the module of this name."""
    return importlib.import_module(f"pretrain.evaluate.{name}").TASK
