"""Shares of several sources in the samples of a run, which may change while it goes. Light.

A weight is a number, or knots [share of the run, number]: between two it goes in a line, before
the first and after the last it stays. Weights are relative to each other: at each knot of any
source all are divided by their sum, and between two of these marks shares go in a line.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence

from infra.errors import SluiceError

Weight = float | tuple[tuple[float, float], ...]
Share = float | list[list[float]]  # of all samples; or [share of the run, that there] at each mark


def fault(weights: Sequence[Weight]) -> str | None:
    """Why these weights make no mix; None where they do."""
    for weight in weights:
        if isinstance(weight, tuple):
            marks = [at for at, _ in weight]
            if not marks or marks != sorted(set(marks)) or marks[0] < 0 or marks[-1] > 1:
                return f"knots are at {marks}: give rising shares of the run, within 0..1"
    marks = _marks(weights)
    for at in marks or [0.0]:
        found = [weight_at(weight, at) for weight in weights]
        if not found or not all(0 <= each < math.inf for each in found) or not sum(found) > 0:
            when = f" at {at:g} of the run" if marks else ""
            return f"the mix sums to nothing{when}, shares {found}"
    return None


def check(weights: Sequence[Weight]) -> None:
    """SluiceError unless `weights` make a mix."""
    if wrong := fault(weights):
        raise SluiceError(
            wrong, "give at least one source, no negative share, and at any time a share above 0"
        )


def counts(weight: Weight) -> bool:
    """Whether any sample comes from a source of this weight."""
    return max(number for _, number in _knots(weight)) > 0


def shares(weights: Sequence[Weight]) -> list[Share]:
    """Of each source: a number where none changes, else its share at each mark. SluiceError."""
    check(weights)
    marks, found = _marks(weights), list[Share]()
    rows = [[weight_at(weight, at) for weight in weights] for at in marks or [0.0]]
    sums = [sum(row) for row in rows]
    for number in range(len(weights)):
        column = [row[number] / total for row, total in zip(rows, sums, strict=True)]
        knots = [[at, share] for at, share in zip(marks, column, strict=False)]
        found.append(knots if marks else column[0])
    return found


def weight_at(weight: Weight, at: float) -> float:
    """A weight at a share of the run."""
    knots = _knots(weight)
    place = bisect_right([mark for mark, _ in knots], at)
    if place in (0, len(knots)):
        return knots[min(place, len(knots) - 1)][1]
    (left, before), (right, after) = knots[place - 1 : place + 1]
    return before + (after - before) * (at - left) / (right - left)


def _knots(weight: Weight) -> Sequence[tuple[float, float]]:
    return weight if isinstance(weight, tuple) else ((0.0, weight),)


def _marks(weights: Sequence[Weight]) -> list[float]:
    """Where any of them has a knot; none where none changes."""
    return sorted({at for weight in weights if isinstance(weight, tuple) for at, _ in weight})


class Mix:
    """How many samples of each source are due after any number of samples of a run of `samples`.

    of: `shares`, in any order.
    """

    def __init__(self, of: Sequence[Share], samples: int) -> None:
        tracks = [share for share in of if isinstance(share, list)]
        self.changes = bool(tracks)
        self._of, self._samples = of, samples
        self._marks = [at for at, _ in tracks[0]] if tracks else []
        self._rows = [[track[place][1] for track in tracks] for place in range(len(self._marks))]
        # Due up to each mark, in runs.
        self._due = [[self._marks[0] * share for share in self._rows[0]]] if tracks else []
        for place in range(1, len(self._marks)):
            self._due.append(self._after(place - 1, self._marks[place], self._rows[place]))

    def _after(self, place: int, at: float, row: Sequence[float]) -> list[float]:
        """Due up to `at`, where shares are `row`, beyond a mark: an integral of lines."""
        half = (at - self._marks[place]) / 2
        return [
            due + half * (before + share)
            for due, before, share in zip(self._due[place], self._rows[place], row, strict=True)
        ]

    def shares(self, count: int) -> list[float]:
        """Of each source, of the first `count` samples of the run."""
        if not self.changes:
            return [share for share in self._of if not isinstance(share, list)]
        return [due / max(count, 1) for due in self.due(count)]

    def due(self, count: int) -> list[float]:
        """The integral of each source's share over the first `count` samples of the run."""
        if not self.changes:
            return [share * count for share in self._of if not isinstance(share, list)]
        at = count / self._samples
        place = bisect_right(self._marks, at) - 1
        if place < 0:
            return [share * count for share in self._rows[0]]
        row = self._rows[place]
        if place + 1 < len(self._marks):
            part = (at - self._marks[place]) / (self._marks[place + 1] - self._marks[place])
            row = [
                share + part * (after - share)
                for share, after in zip(row, self._rows[place + 1], strict=True)
            ]
        return [self._samples * due for due in self._after(place, at, row)]
