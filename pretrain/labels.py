"""What is learnt of samples: classes, sets of classes, the outputs of a teacher. Light.

An objective's options read it and say of a sample that has nothing to learn from why
(`Options.unusable`): the stream then skips, counts and names it.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

from pydantic import Field, field_validator

from infra.errors import SluiceError
from pretrain.declare import Options
from pretrain.meta import label


@lru_cache(maxsize=8)
def _places(classes: tuple[str, ...]) -> Mapping[str, int]:
    return {name: place for place, name in enumerate(classes)}


class Labelled(Options):
    """Options of an objective that learns classes from a field of the samples' JSON."""

    label: str = Field("concept", description="field of the samples' JSON with the class")
    classes: tuple[str, ...] = Field(
        (), description="names of all classes; a sample of no such class is skipped and counted"
    )

    @field_validator("classes")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = [name.strip() for name in value]
        if len(set(names)) < len(names) or "" in names or len(names) == 1:
            raise ValueError("two or more classes, each named once, and none of them empty")
        return tuple(names)

    def place(self, name: str) -> int:
        """The number of a class; raises ValueError where it is none of `classes`."""
        try:
            return _places(self.classes)[name]
        except KeyError:
            raise ValueError(
                f"{self.label} {name!r} is none of the {len(self.classes)} classes"
            ) from None

    def unusable(self, fields: Mapping[str, Any], names: Collection[str] = ()) -> str | None:
        try:
            self.read(fields)
        except ValueError as error:
            return str(error)
        return None

    def read(self, fields: Mapping[str, Any]) -> Mapping[int, float]:
        """Share of each class by its number, summing to 1; raises ValueError where there is none.

        The field has the name of a class, or a soft label: an object of names and weights.
        """
        value = fields.get(self.label)
        if not isinstance(value, dict):
            name = label(fields, self.label)
            if not name:
                raise ValueError(f"it has no {self.label}")
            return {self.place(name): 1.0}
        weights = {self.place(str(name).strip()): number(share) for name, share in value.items()}
        total = sum(weights.values())
        if total <= 0:
            raise ValueError(f"the shares of its {self.label} sum to nothing")
        return {place: share / total for place, share in weights.items()}


class MultiLabelled(Labelled):
    """Options of an objective that learns sets of classes."""

    label: str = Field("labels", description="field of the samples' JSON with a list of classes")

    def read(self, fields: Mapping[str, Any]) -> Mapping[int, float]:
        """1 for each class of the field's list, which may be empty, by its number."""
        value = fields.get(self.label)
        if not isinstance(value, list):
            raise ValueError(f"its {self.label} is no list")
        return {self.place(str(name).strip()): 1.0 for name in value}


def number(value: Any) -> float:
    """A finite number that is not negative; raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is no number")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{value} is no share")
    return float(value)


def dense(rows: Sequence[Mapping[int, float]], width: int) -> list[list[float]]:
    """Rows of shares by class as [rows, width]."""
    return [[row.get(place, 0.0) for place in range(width)] for row in rows]


def check_same(ours: Sequence[str], what: str, theirs: Sequence[str], whose: str) -> None:
    """SluiceError, with names of both, unless two lists of classes are the same in order."""
    if list(ours) == list(theirs):
        return
    only = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
    differ = [
        f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''} only of {side}"
        for names, side in zip(only, (what, whose), strict=True)
        if names
    ]
    raise SluiceError(
        f"the classes of {what} ({len(ours)}) and of {whose} ({len(theirs)}) differ: "
        f"{'; '.join(differ) or 'they are the same in another order'}",
        "the number of a class must mean the same to both: give both one list of classes",
    )


class Taught(Labelled):
    """Options of an objective that learns from a teacher's stored outputs."""

    teacher: str = Field("teacher", description="the score columns with the teacher's outputs")
    classes: tuple[str, ...] = Field(
        (), description="names of all classes, the teacher's, in order"
    )
    label_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the samples' own labels in what is learnt; none as published",
    )

    # Of its columns, the one beside `classes`, and the dimensions of both.
    VALUES: ClassVar[tuple[str, int]]

    def reads(self) -> frozenset[str]:
        return frozenset({self.teacher})

    def check_columns(self, name: str, url: str, made: Mapping[str, Any]) -> None:
        check_same(self.classes, "options.classes", made.get("classes") or (), url)

    def unusable(self, fields: Mapping[str, Any], names: Collection[str] = ()) -> str | None:
        from pretrain.outputs import fault  # NumPy

        wrong = fault(fields.get(self.teacher), *self.VALUES, len(self.classes))
        return wrong or (super().unusable(fields, names) if self.label_share else None)
