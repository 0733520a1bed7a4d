"""Drawn versions: dataset versions without files, whose samples are drawn when they are read.

The manifest names a drawer and its settings; a sample is a pure function of these and its number.
Drawers come from any package that names them in the entry points of the group `sluice.drawers`:
a function from settings (a mapping) to a `Drawer`. A version written from one has the same
settings, and so the same uids, classes and order.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.artifacts import Artifact, Spec
from infra.digests import canonical_json
from infra.errors import SluiceError
from infra.samples import Sample

GROUP = "sluice.drawers"
STAGE = "drawn"
FORM = "png"  # of an image that is drawn for who wants a file


TOLD = {"uid", "caption", "meta", "source"}


@dataclass(frozen=True)
class Told:
    """What is known of a sample without drawing it. meta: its own fields, as JSON."""

    uid: str  # 32 hex characters
    caption: str
    meta: str
    source: str


@dataclass(frozen=True)
class Classes:
    """The classes of a version's samples, and the field of `meta` that has them.

    several: the field is a list of classes, not one.
    """

    field: str
    several: bool
    names: Sequence[str]


class Drawer(Protocol):
    """Draws the samples of a version by number, the same from any thread and process."""

    @property
    def code(self) -> int:
        """Raised when the same settings give other samples."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        ...

    @property
    def classes(self) -> Classes | None:
        """None where samples have none."""
        ...

    def tell(self, number: int) -> Told: ...

    def draw(self, number: int) -> npt.NDArray[np.uint8]:
        """RGB uint8 [height, width, 3]."""
        ...

    def encode(self, pixels: npt.NDArray[np.uint8], form: str) -> bytes:
        """An image file: png, without loss, or jpg."""
        ...


def drawn_spec(
    drawer: str, settings: Mapping[str, Any], code: int, rows: int, form: str | None = None
) -> Spec:
    """The version that a drawer of this code draws from these settings; it has no parents.

    rows: samples of a shard. form: format of its images where it is written with files.
    """
    made = {"drawer": drawer, "drawn": dict(settings), "rows_per_shard": rows}
    if form is None:
        return Spec("dataset", STAGE, made, code=code)
    return Spec("dataset", drawer, made | {"format": form}, code=code)


def is_drawn(artifact: Artifact) -> bool:
    """Whether a version has no files: its samples are drawn when they are read."""
    return artifact.kind == "dataset" and artifact.manifest["spec"]["stage"] == STAGE


def has_drawer(settings: Mapping[str, Any]) -> bool:
    """Whether a version made with these settings is drawn, or was written from a drawn one."""
    return {"drawer", "drawn"} <= settings.keys()


def order_key(artifact: Artifact) -> str:
    """What the order of a version's samples is made from: its digest.

    Of one that was written from a drawn version that one's, so that both give the same batches.
    """
    if not has_drawer(artifact.settings) or is_drawn(artifact):
        return artifact.digest
    made, code = artifact.settings, artifact.manifest["spec"]["code"]
    return drawn_spec(made["drawer"], made["drawn"], code, made["rows_per_shard"]).digest


def open_drawer(artifact: Artifact) -> Drawer:
    """What draws a version that comes from a drawer.

    SluiceError where no installed package does, or where it would draw other samples by now.
    """
    name, code = artifact.settings["drawer"], artifact.manifest["spec"]["code"]
    drawer = find_drawer(name, artifact.settings["drawn"])
    if drawer.code != code:
        raise SluiceError(
            f"{artifact.url} is drawn by version {code} of {name!r}, and version {drawer.code} is "
            "installed, which draws other images",
            "install the package as it was, or make the version again",
        )
    return drawer


def find_drawer(name: str, settings: Mapping[str, Any]) -> Drawer:
    """The drawer of that name for these settings; SluiceError where nobody has it."""
    return _opened(name, canonical_json(settings))


@lru_cache(maxsize=16)
def _opened(name: str, settings: bytes) -> Drawer:
    try:
        return _made(name)(json.loads(settings))
    except SluiceError:
        raise
    except Exception as error:  # whatever a package raises
        raise SluiceError(
            f"the drawer {name!r} cannot be had with the settings of this version: "
            f"{type(error).__name__}: {error}",
            f"mend the package that has it (entry points {GROUP}), or make the version again",
        ) from error


def _made(name: str) -> Callable[[Mapping[str, Any]], Drawer]:
    for found in entry_points(group=GROUP):
        if found.name == name:
            return found.load()
    there = sorted(found.name for found in entry_points(group=GROUP))
    raise SluiceError(
        f"this version is drawn by {name!r}, and no installed package draws that; there is "
        f"{', '.join(there) or 'none'}",
        f"install the package that does (entry points {GROUP}); where it is Sluice's own, run "
        "`make`, or `pip install --no-deps -e .` in its folder",
    )


class DrawnShard:
    """The samples of one shard of a drawn version, by row; nothing of them is held."""

    def __init__(self, artifact: Artifact, shard: int) -> None:
        self.drawer = open_drawer(artifact)
        self.shard = shard
        most: int = artifact.settings["rows_per_shard"]  # all but the last have as many
        self._first = shard * most
        self.rows = min(most, max(artifact.totals["rows"] - self._first, 0))

    def number(self, row: int) -> int:
        """The number of a row's sample in its version."""
        return self._first + row

    def tell(self, row: int) -> Told:
        return self.drawer.tell(self._first + row)

    def draw(self, row: int) -> npt.NDArray[np.uint8]:
        return self.drawer.draw(self._first + row)

    def file(self, row: int) -> bytes:
        return self.drawer.encode(self.draw(row), FORM)

    def samples(self) -> Iterator[Sample]:
        """Each with its image as a file."""
        for row in range(self.rows):
            yield Sample(row, self.file(row), FORM, self.tell(row).caption)

    def table(self, schema: pa.Schema, most: int | None = None) -> pa.Table:
        """Columns of `infra.dataset.ROWS`; what only a file has (its hash, its place) is null.

        most: no more than so many rows, the first.
        """
        height, width = self.drawer.size
        count = self.rows if most is None else min(most, self.rows)
        asked, all_rows = set(schema.names), range(count)
        told = list(map(self.tell, all_rows)) if asked & TOLD else []
        made: dict[str, Sequence[Any]] = {name: [getattr(each, name) for each in told]
                                          for name in TOLD}  # fmt: skip
        made |= {"row": all_rows}
        same = {"shard": self.shard, "status": "ok", "format": FORM, "width": width,
                "height": height}  # fmt: skip
        made |= {name: [same.get(name)] * count for name in asked - made.keys()}
        arrays = [pa.array(made[field.name], field.type) for field in schema]
        return pa.Table.from_arrays(arrays, schema=schema)
