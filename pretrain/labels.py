"""What the samples' own JSON teaches: classes, sets of classes, a teacher's records. Light.

An objective's options read it and say of a sample that has nothing to learn from why
(`Options.unusable`): the stream then skips, counts and names it.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import Field, field_validator

from pretrain.declare import Options
from pretrain.meta import label

SLACK = 1e-3  # of probabilities and boxes, which are stored with few digits


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


@dataclass(frozen=True)
class Record:
    """What a teacher gave for one view of an image.

    shares: probabilities by class, of the likeliest alone. box: the crop as y0, x0, y1, x1 in
    shares of the image; mirrored. None: the teacher saw the whole, any crop may stand for it.
    """

    shares: Mapping[int, float]
    box: tuple[float, ...] | None
    flip: bool | None


def read_records(value: Any, classes: int) -> Sequence[Record]:
    """The records of a sample, one or a list; raises ValueError where one is not whole."""
    found = value if isinstance(value, list) else [value]
    if not found or None in found:
        raise ValueError("it has no record of a teacher")
    return [_record(each, classes) for each in found]


def _record(value: Any, classes: int) -> Record:
    if not isinstance(value, dict):
        raise ValueError("a teacher's record is no object")
    places, shares = value.get("classes"), value.get("probabilities")
    if not isinstance(places, list) or not isinstance(shares, list) or not places:
        raise ValueError("a teacher's record lacks classes or probabilities")
    if len(places) != len(shares) or len(set(map(str, places))) < len(places):
        raise ValueError("a teacher's record has not one probability for each class")
    for place in places:
        if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < classes:
            raise ValueError(f"a teacher's record has class {place!r}, of {classes} classes")
    kept = [number(share) for share in shares]
    if not 0 < sum(kept) <= 1 + SLACK:
        raise ValueError(f"the probabilities of a teacher's record sum to {sum(kept)}")
    flip = value.get("flip")
    return Record(
        dict(zip(places, kept, strict=True)),
        _box(value.get("box")),
        None if flip is None else bool(flip),
    )


def _box(value: Any) -> tuple[float, ...] | None:
    if value is None:
        return None
    box = tuple(number(edge) for edge in value) if isinstance(value, list) else ()
    if len(box) != 4 or not (box[0] < box[2] <= 1 + SLACK and box[1] < box[3] <= 1 + SLACK):
        raise ValueError(f"the box of a teacher's record is {value}, not y0, x0, y1, x1 in 0..1")
    return box


def densify(shares: Mapping[int, float], classes: int, spread: bool) -> list[float]:
    """Probabilities of all classes from those of a few: [classes], summing to 1.

    spread: what the few leave goes to all others evenly; else it is dropped, and the few are
    scaled to sum to 1. They are probabilities already: a softmax over them would flatten them.
    """
    kept = sum(shares.values())
    left = max(1 - kept, 0.0) if spread and len(shares) < classes else 0.0
    other = left / (classes - len(shares)) if left else 0.0
    scale = 1 / (kept + left)
    return [shares.get(place, other) * scale for place in range(classes)]
