"""verify: whether what a store holds is what was committed, file by file.

Every file is read again and hashed; the rows of a version are counted against its manifest; tars
that are used where they are must be there with their size; pointers and tags must name something.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from infra import artifacts, filesystem
from infra.artifacts import MANIFEST, Artifact, Part
from infra.catalogue.nodes import COMMITTED, DATASET, Catalogue, Node
from infra.dataset import read_table
from infra.drawn import is_drawn
from infra.errors import SluiceError
from infra.filesystem import FilePart, join
from infra.filesystem.entries import entries, files_under
from infra.progress import Display
from infra.runner import Runner
from infra.samples import Tar

PARTS_AT_ONCE = 32  # of one artifact, hashed by one worker
GONE, OTHER_SIZE, OTHER_BYTES = "is gone", "has another size", "has other bytes"


@dataclass(frozen=True)
class Damage:
    """Something that is not as it was committed. place: of the artifact, a pointer or a tag."""

    place: str
    path: str  # of the file, within it; "" for itself
    what: str


@dataclass(frozen=True)
class _Unit:
    """What one worker looks at: some parts of an artifact; of all of them the sizes alone."""

    node: Node
    url: str
    parts: Sequence[Part]
    drawn: bool


def verify_store(
    catalogue: Catalogue,
    runner: Runner,
    display: Display,
    names: Sequence[str] = (),
    quick: bool = False,
) -> tuple[int, list[Damage]]:
    """How many artifacts were looked at, and what is damaged; [] when all is well.

    names: of artifacts, which are looked at with what was made of them and lies in their folders;
    all of the store without. quick: sizes alone, nothing is read.
    """
    nodes = _chosen(catalogue, names)
    found: list[Damage] = []
    units: list[_Unit] = []
    for node in nodes:
        artifact = _open(catalogue, node, found)
        if artifact is not None:
            units += _units(node, artifact, quick)
    check = _sizes if quick else _bytes
    line = display.stage("verify", sum(len(unit.parts) for unit in units), "parts")
    for index, damage in runner.map(check, units):
        found += damage
        line.advance(len(units[index].parts), f"{len(found)} damaged")
    for node in nodes:
        found += _tars(catalogue, node)
    if not names:
        found += _pointers(catalogue)
    line.finish(f"{len(nodes)} artifacts, {len(found)} damaged")
    return len(nodes), sorted(found, key=lambda each: (each.place, each.path))


def _chosen(catalogue: Catalogue, names: Sequence[str]) -> list[Node]:
    places = [catalogue.find(name).place for name in names]
    chosen = {each for place in places for each in (place, *catalogue.within.get(place, ()))}
    return [
        node
        for place, node in catalogue.nodes.items()
        if node.state == COMMITTED and (not names or place in chosen)
    ]


def _open(catalogue: Catalogue, node: Node, found: list[Damage]) -> Artifact | None:
    """The artifact, if its manifest can be read; what is wrong with that goes to `found`."""
    try:
        artifact = artifacts.load(catalogue.url(node.place))
        if artifact is not None and not artifacts.manifest_holds(artifact):
            found.append(Damage(node.place, MANIFEST, "does not follow from its parts"))
        return artifact
    except (SluiceError, KeyError, TypeError) as error:
        what = error.what if isinstance(error, SluiceError) else f"cannot be read: {error!r}"
        found.append(Damage(node.place, MANIFEST, what))
        return None


def _units(node: Node, artifact: Artifact, quick: bool) -> Iterator[_Unit]:
    parts, drawn = artifact.parts, is_drawn(artifact)
    step = len(parts) or 1 if quick else PARTS_AT_ONCE
    for start in range(0, len(parts), step):
        yield _Unit(node, artifact.url, parts[start : start + step], drawn)


def _files(unit: _Unit) -> Iterable[FilePart]:
    return (file for part in unit.parts for file in part.files)


def _sizes(unit: _Unit) -> list[Damage]:
    """By one listing of all that lies in the artifact's folder."""
    there = {entry.url: entry.bytes for entry in files_under(unit.url)}
    sizes = {file.path: there.get(join(unit.url, file.path)) for file in _files(unit)}
    return [
        Damage(unit.node.place, file.path, GONE if sizes[file.path] is None else OTHER_SIZE)
        for file in _files(unit)
        if sizes[file.path] != file.bytes
    ]


def _bytes(unit: _Unit) -> list[Damage]:
    found: list[Damage] = []
    for part in unit.parts:
        damaged = artifacts.damaged_files(unit.url, part.files)
        for path in damaged:
            there = filesystem.exists(join(unit.url, path))
            found.append(Damage(unit.node.place, path, OTHER_BYTES if there else GONE))
        if unit.node.kind == DATASET and not unit.drawn and not damaged:
            found += _rows(unit, part)
    return found


def _rows(unit: _Unit, part: Part) -> Iterator[Damage]:
    """Of a version: whether its rows are as many as its manifest says, and as many of them kept."""
    path = f"rows/{part.name}.parquet"
    if path not in {file.path for file in part.files}:
        return
    status = read_table(join(unit.url, path), ["status"])["status"]
    kept = int(pc.sum(pc.equal(status, "ok")).as_py() or 0)  # pyright: ignore[reportAttributeAccessIssue]
    if (len(status), kept) != (part.rows, part.kept):
        told = f"{part.rows} rows, {part.kept} of them kept"
        yield Damage(
            unit.node.place, path, f"has {len(status)} rows, {kept} of them kept, not {told}"
        )


def _tars(catalogue: Catalogue, node: Node) -> Iterator[Damage]:
    """Tars that a version uses where they are: whether they are there, and as large as they were.

    Their bytes are nobody's promise: reading a sample checks that it is still where it was.
    """
    wanted: dict[str, dict[str, Tar]] = {}
    for _, url, tar in catalogue.tars(node.place):
        folder, _, name = url.rpartition("/")
        wanted.setdefault(folder, {})[name] = tar
    for folder, tars in wanted.items():
        there = _listed(folder, tars)
        for name, tar in sorted(tars.items()):
            size, url = there.get(name), join(folder, name)
            if size is None:
                yield Damage(node.place, url, f"{GONE}, and samples of this version lie in it")
            elif tar.bytes is not None and size != tar.bytes:
                yield Damage(node.place, url, f"has {size} bytes, not {tar.bytes}")


def _listed(folder: str, names: Iterable[str]) -> Mapping[str, int]:
    """The sizes of files in a folder by name; of one that cannot be listed each is asked for."""
    listed: dict[str, int] = {}
    try:
        listed = {entry.name: entry.bytes for entry in entries(folder) if not entry.folder}
    except SluiceError:
        for name in names:
            known = _info(join(folder, name))
            if known is not None:
                listed[name] = int(known.get("size") or 0)
    return listed


def _info(url: str) -> Mapping[str, Any] | None:
    try:
        return filesystem.info(url)
    except FileNotFoundError:
        return None


def _pointers(catalogue: Catalogue) -> Iterator[Damage]:
    for pointer in catalogue.pointers:
        target = catalogue.nodes.get(pointer.target)
        if target is None or target.state != COMMITTED:
            yield Damage(pointer.place, "", f"names {pointer.digest or 'nothing'}, which {GONE}")
    for tag, place in catalogue.tags.items():
        if place not in catalogue.nodes:
            yield Damage(f"tag {tag}", "", f"names {place}, which {GONE}")
