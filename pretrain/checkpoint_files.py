"""How checkpoints lie in a run's folder: tensors in pieces, one of each process, and a record.

`checkpoint-<step>-<piece>-of-<pieces>.safetensors` hold the tensors, never a pickle, and
`checkpoint-<step>.json` the rest, with the size and hash of each piece. The record is written last:
without it, or without a whole piece of those it names, there is no such checkpoint. A model that is
not cut is the case of one piece.

What is kept beyond the run's end is in a folder of its own, `KEPT`.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from infra import filesystem
from infra.errors import SluiceError
from infra.filesystem import FilePart, join
from pretrain.job import WORK
from pretrain.sharding import share

KEPT = "checkpoints"  # of a run that keeps several: they stay when it has ended
RECORD = re.compile(r"checkpoint-(\d{9,})\.json")
FILE = re.compile(r"checkpoint-(\d{9,})(-\d+-of-\d+\.safetensors|\.json)")
DAMAGE = (SafetensorError, KeyError, ValueError, FileNotFoundError)

Span = tuple[int, int]  # rows of a tensor, from the first to before the second
Wanted = Callable[[str, Sequence[int]], Span]  # which rows, by a tensor's name and whole shape


@dataclass(frozen=True)
class Snapshot:
    """A copy, in memory, of what a process writes of a checkpoint.

    tensors: its piece. record: JSON of the whole, the same in every process but for seconds; `cut`
    in it gives the shape of each tensor that lies in all pieces (`sharding.share`), other tensors
    are whole, in the first. piece: the number of this one.
    """

    tensors: Mapping[str, Tensor]
    record: Mapping[str, Any]
    piece: int = 0
    pieces: int = 1

    @property
    def name(self) -> str:
        return f"checkpoint-{self.record['step']:09d}"


@dataclass(frozen=True)
class Found:
    """A checkpoint whose files are all there. folder: its URL."""

    folder: str
    record: Mapping[str, Any]

    def tensors(self, wanted: Wanted) -> dict[str, Tensor]:
        """All its tensors, of each the rows that are `wanted`; those without rows as they are.

        One piece at a time is in memory, of those that have such rows. Raises one of `DAMAGE`
        where a piece is not what was written.
        """
        cut, pieces = self.record["cut"], self.record["pieces"]
        tensors: dict[str, Tensor] = {}
        for number, part in enumerate(pieces):
            # Whole tensors are in the first.
            if number and not any(
                _overlap(share(shape[0], len(pieces), number), wanted(name, shape))
                for name, shape in cut.items()
            ):
                continue
            data = filesystem.read_bytes(join(self.folder, part["path"]))
            if hashlib.sha256(data).hexdigest() != part["sha256"]:
                raise ValueError(f"{part['path']} is not what was written")
            for name, value in load(data).items():
                shape = cut.get(name, value.shape)
                if not shape:
                    tensors[name] = value
                    continue
                held = share(shape[0], len(pieces) if name in cut else 1, number)
                start, stop = wanted(name, shape)
                if name not in tensors:
                    tensors[name] = value.new_empty((stop - start, *value.shape[1:]))
                if both := _overlap(held, (start, stop)):
                    rows = value[both[0] - held[0] : both[1] - held[0]]
                    tensors[name][both[0] - start : both[1] - start] = rows
        return tensors


def _overlap(one: Span, other: Span) -> Span | None:
    start, stop = max(one[0], other[0]), min(one[1], other[1])
    return (start, stop) if start < stop else None


def found(url: str) -> list[Found]:
    """The checkpoints of the run at `url` of which no file is missing or truncated, the one that
    went farthest first.
    """
    records: list[tuple[int, Found]] = []
    for folder in (join(url, WORK), join(url, KEPT)):
        for step, record in _records(folder):
            each = Found(folder, record)
            if all(_is_whole(folder, part) for part in record["pieces"]):
                records.append((step, each))
    return [each for _, each in sorted(records, key=lambda pair: -pair[0])]


def _is_whole(folder: str, part: Mapping[str, Any]) -> bool:
    file = join(folder, part["path"])
    return filesystem.exists(file) and filesystem.size(file) == part["bytes"]


def _records(folder: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Step and content of the records there that can be read."""
    for name in filesystem.list_names(folder):
        match = RECORD.fullmatch(name)
        if match:
            try:
                record = json.loads(filesystem.read_bytes(join(folder, name)))
                yield int(match[1]), {**record, "cut": record["cut"], "pieces": record["pieces"]}
            except DAMAGE:
                continue


class Writer:
    """Writes the checkpoints of the run at `url` on a thread of its own, one after the other.

    keep: how many of the last ones stay; above 1 the one of the lowest loss stays, too, and all of
    them beyond the run's end. What failed is raised by the next call. told: what every process
    says, asked by all of them together on that thread, where each writes a piece.
    """

    def __init__(
        self, url: str, keep: int = 1, told: Callable[[Any], list[Any]] = lambda value: [value]
    ) -> None:
        self.folder, self.keep = KEPT if keep > 1 else WORK, keep
        self.url, self._told = url, told
        self._threads = ThreadPoolExecutor(1, "checkpoint")
        self._last: Future[None] | None = None

    def write(self, copied: Snapshot) -> None:
        """Begin to write a checkpoint, once the last one is written."""
        self.wait()
        self._last = self._threads.submit(self._write, copied)

    def wait(self) -> None:
        """Until all is written."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def close(self) -> None:
        self._threads.shutdown()

    def _write(self, copied: Snapshot) -> None:
        name = f"{self.folder}/{copied.name}"
        part: FilePart | None = None
        try:
            file = f"{name}-{copied.piece}-of-{copied.pieces}.safetensors"
            part = filesystem.write_bytes(self.url, file, save(dict(copied.tensors)))
        finally:  # others wait for its word
            parts = self._told(part) if copied.pieces > 1 else [part]
        pieces = [
            {**each.to_json(), "path": each.path.rsplit("/", 1)[-1]} for each in parts if each
        ]
        if len(pieces) < copied.pieces:
            raise SluiceError(
                f"a piece of {join(self.url, name)} could not be written by another process",
                "see what that process says; the run goes on from the checkpoint before",
            )
        if copied.piece:
            return
        record = json.dumps({**copied.record, "pieces": pieces}).encode()
        filesystem.write_bytes(self.url, f"{name}.json", record)
        self._sweep(int(copied.record["step"]))

    def _sweep(self, step: int) -> None:
        """Remove what is not of a later step, and not kept: records first, then their pieces."""
        for name in (WORK, KEPT):
            folder = join(self.url, name)
            there = {old: record for old, record in _records(folder) if old <= step}
            stay = set(sorted(there)[-self.keep :] if name == self.folder else [])
            losses = {old: there[old]["loss"] for old in sorted(there) if "loss" in there[old]}
            if name == self.folder and self.keep > 1 and losses:
                stay.add(min(losses, key=lambda old: losses[old]))
            kept = {f"checkpoint-{old:09d}.json" for old in stay}
            kept |= {part["path"] for old in stay for part in there[old]["pieces"]}
            matches = [
                match for each in filesystem.list_names(folder) if (match := FILE.fullmatch(each))
            ]
            for match in sorted(matches, key=lambda match: match[2] != ".json"):
                if int(match[1]) <= step and match[0] not in kept:
                    filesystem.remove_file(join(folder, match[0]))
