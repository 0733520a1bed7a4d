"""The manifest of an artifact: the file, and what of it is held in memory.

A stage of 100,000 shards has as many parts, so they stay the text that they are in the file, with
the place where each starts: a fifth of what they take as values. In the file every line break is
one of layout, since JSON has none in a string.
"""

import io
import json
import uuid
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import eq
from typing import Any, overload

import orjson

from infra.errors import SluiceError
from infra.filesystem import FilePart

FORMAT = 1
LAYOUT = json.JSONEncoder(indent=1, sort_keys=True, ensure_ascii=False)
PARTS_KEY, PARTS_END = b'\n "parts": [', b"\n ]"
FIRST = PARTS_KEY + b"\n"
BETWEEN = b",\n"  # two parts
NEXT = b"\n  }" + BETWEEN  # the end of one, and where the next starts
REMOVE = "remove that folder and run again"


@dataclass(frozen=True, slots=True)
class Part:
    """What one unit of work left: its files, its counts, anything the stage wants kept.

    rows = kept + the sum over `dropped`; `extra` must be a pure function of the inputs.
    """

    name: str
    files: tuple[FilePart, ...]
    rows: int = 0
    kept: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lost = self.rows - self.kept - sum(self.dropped.values())
        if lost:
            raise SluiceError(
                f"part {self.name} does not balance: {self.rows} rows in, {self.kept} kept, "
                f"{dict(self.dropped)} dropped, {lost} unaccounted for",
                "this is a defect of the stage; please report it with this message",
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "files": [file.to_json() for file in self.files],
            "rows": self.rows,
            "kept": self.kept,
            "dropped": dict(sorted(self.dropped.items())),
            "extra": dict(self.extra),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Part":
        files = tuple(FilePart(**file) for file in value["files"])
        return Part(
            value["name"], files, value["rows"], value["kept"], value["dropped"], value["extra"]
        )


class Parts(Sequence[Part]):
    """Parts held as the text of a manifest: one is a value while somebody looks at it."""

    def __init__(self, text: bytes, starts: "array[int]") -> None:
        """text: has the parts, BETWEEN each two. starts: of each, and where one more would."""
        self._text, self._starts = text, starts

    @staticmethod
    def of(parts: Iterable[Part]) -> "Parts":
        return Parts.joined(map(_laid_out, (part.to_json() for part in parts)))

    @staticmethod
    def joined(pieces: Iterable[bytes | memoryview]) -> "Parts":
        """Of the text of each."""
        text, starts = io.BytesIO(), array("q", [0])
        for piece in pieces:
            text.write(piece)
            text.write(BETWEEN)
            starts.append(text.tell())
        return Parts(text.getvalue(), starts)

    @property
    def text(self) -> memoryview:
        """As it stands in a manifest."""
        return self._piece(0, len(self)) if len(self) else memoryview(b"")

    def pieces(self) -> Iterator[memoryview]:
        """The text of each."""
        return (self._piece(place, place + 1) for place in range(len(self)))

    def paths(self) -> Iterator[str]:
        """Of the files of all."""
        return (file["path"] for piece in self.pieces() for file in _value(piece)["files"])

    def _piece(self, first: int, last: int) -> memoryview:
        return memoryview(self._text)[self._starts[first] : self._starts[last] - len(BETWEEN)]

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Part: ...
    @overload
    def __getitem__(self, index: slice) -> "Parts": ...
    def __getitem__(self, index: int | slice) -> "Part | Parts":
        chosen = range(len(self))[index]
        if isinstance(chosen, range):  # with no more text than is its own: it may travel
            return Parts.joined(self._piece(each, each + 1) for each in chosen)
        return Part.from_json(json.loads(str(self._piece(chosen, chosen + 1), "utf-8")))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))

    def __repr__(self) -> str:
        return f"<{len(self)} parts>"


def write_manifest(head: Mapping[str, Any], parts: Parts) -> bytes:
    """The file of a manifest: `head` is all of it but the parts."""
    before, here, after = _pretty({**head, "parts": []}).partition(PARTS_KEY)
    inner = [FIRST, parts.text, b"\n "] if parts else [here]
    return b"".join([before, *inner, after])


def read_manifest(url: str, data: bytes) -> tuple[dict[str, Any], Parts]:
    """The manifest in the file at `url` but for its parts, and these; all of it is JSON.

    SluiceError for what is not JSON, has another format or no list of parts.
    """
    try:
        head, parts = _split(data) or _parsed(data)
    except (ValueError, RecursionError) as error:  # not JSON, or not even text
        raise SluiceError(f"{url} is not JSON: {error}", REMOVE) from error
    found = head.get("format") if isinstance(head, dict) else None
    if found != FORMAT:
        raise SluiceError(
            f"{url} has format {found}, this Sluice reads {FORMAT}",
            "open the store with the Sluice that wrote it",
        )
    if parts is None:
        raise SluiceError(f"{url} has no list of parts", REMOVE)
    return head, parts


def _split(data: bytes) -> tuple[dict[str, Any], Parts] | None:
    """What is laid out as ours are, cut where its lines say; None for any other."""
    at = start = data.find(FIRST) + len(FIRST)
    end = data.find(PARTS_END, start)
    if start < len(FIRST) or end < 0:
        return None
    starts = array("q", [start])
    while (at := data.find(NEXT, at, end)) >= 0:
        at += len(NEXT)
        starts.append(at)
    starts.append(end + len(BETWEEN))
    parts, token = Parts(data, starts), uuid.uuid4().hex
    try:
        for piece in parts.pieces():
            _value(piece)
        head = json.loads(b'%b"%b"%b' % (data[:start], token.encode(), data[end:]))
    except (ValueError, RecursionError):
        return None
    # Nobody could put the token where it is found unless the parts lie there.
    return (head, parts) if isinstance(head, dict) and head.pop("parts", None) == [token] else None


def _value(piece: memoryview) -> Any:
    """What is there, but whole numbers beyond 64 bits are floats. ValueError for no JSON."""
    try:
        return orjson.loads(piece)  # in a quarter of the time
    except ValueError:
        return json.loads(str(piece, "utf-8"))  # which knows NaN


def _parsed(data: bytes) -> tuple[Any, Parts | None]:
    """What has another layout, laid out anew."""
    head = json.loads(data)
    values = head.pop("parts", None) if isinstance(head, dict) else None
    return head, Parts.joined(map(_laid_out, values)) if isinstance(values, list) else None


def _pretty(value: Mapping[str, Any]) -> bytes:
    return LAYOUT.encode(value).encode()


def _laid_out(part: Any) -> bytes:
    return b"  " + _pretty(part).replace(b"\n", b"\n  ")
