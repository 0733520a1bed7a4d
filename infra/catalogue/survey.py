"""Looking through a store: from its folders to the catalogue of what lies in them."""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from infra import filesystem, samples
from infra.artifacts import MANIFEST
from infra.catalogue.folders import AT_ONCE, Folder, inner, look
from infra.catalogue.nodes import (
    COMMITTED,
    REMOVED,
    UNFINISHED,
    WITHDRAWN,
    Catalogue,
    Node,
    Pointer,
)
from infra.catalogue.tags import read_tags
from infra.dataset import LATEST
from infra.digests import DIGEST_LENGTH
from infra.errors import SluiceError
from infra.filesystem import join
from infra.filesystem.entries import Entry, entries, files_under
from infra.manifest import read_manifest
from infra.withdrawn import WITHDRAWN_FILE

_DIGEST = rf"[0-9a-f]{{{DIGEST_LENGTH}}}"
_FOLDER = re.compile(rf"(?:.+-)?{_DIGEST}")  # of an artifact
_NAMED = re.compile(rb"(?<![0-9a-f.])%b(?![0-9a-f])" % _DIGEST.encode())  # and no fraction


def survey(store: str) -> Catalogue:
    """Look through a store: list each folder down to the artifacts, and read their manifests."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        walk = _Walk(store, threads)
        walk.run()
    ours = _ours(walk.nodes, walk.pointers)
    nodes = {node.place: node for node in sorted(ours, key=lambda node: node.place)}
    return Catalogue(store, nodes, walk.pointers, read_tags(store), sorted(walk.spare))


def _ours(nodes: Sequence[Node], pointers: Sequence[Pointer]) -> list[Node]:
    """Without folders that only happen to be named like artifacts.

    An unfinished one must be marked as one, or have a finished one in it or beside it.
    """
    known = {each.place.rpartition("/")[0] for each in pointers}
    for node in nodes:
        if node.state != UNFINISHED:
            known |= {node.place.rpartition("/")[0], node.home or ""}
    return [
        node
        for node in nodes
        if node.state != UNFINISHED
        or node.home
        or node.marked
        or {node.place, node.place.rpartition("/")[0]} & known
    ]


@dataclass
class _Walk:
    store: str
    threads: ThreadPoolExecutor
    nodes: list[Node] = field(default_factory=list[Node])
    pointers: list[Pointer] = field(default_factory=list[Pointer])
    spare: list[str] = field(default_factory=list[str])

    def run(self) -> None:
        top = entries(self.store)
        self._note(top)
        groups = inner(top)
        for depth in range(2):
            places: list[str] = []
            for group in self.threads.map(self._look, groups):
                self._note(group.listed)
                self._point(group, None)
                places += [f"{group.place}/{name}" for name in inner(group.listed)]
            named = [place for place in places if _FOLDER.fullmatch(place.rpartition("/")[2])]
            others = self._artifacts(named, None, groups_too=depth == 0)
            groups = [place for place in places if place not in set(named)] + others

    def _look(self, place: str) -> Folder:
        return look(self.store, place)

    def _note(self, listed: Sequence[Entry]) -> None:
        """Note what is of no use to anybody once who wrote it is gone."""
        for entry in listed:
            if entry.folder and entry.name == filesystem.TEMPORARY:
                self.spare.append(self._place(entry.url))

    def _place(self, url: str) -> str:
        return url[len(self.store.rstrip("/")) + 1 :]

    def _point(self, folder: Folder, home: str | None) -> None:
        for name, entry in folder.files.items():
            if name.startswith(LATEST):
                found = _NAMED.search(filesystem.read_bytes(entry.url))
                digest = found.group().decode() if found else ""
                self.pointers.append(Pointer(f"{folder.place}/{name}", digest, home))

    def _artifacts(self, places: Sequence[str], home: str | None, groups_too: bool) -> list[str]:
        """Take these folders in; returns those that are none, but hold some."""
        others: list[str] = []
        for folder, node in self.threads.map(lambda place: self._seen(place, home), places):
            if groups_too and node.state == UNFINISHED and _is_group(folder.listed):
                others.append(folder.place)
                continue
            self.nodes.append(node)
            if home is None:
                self._inside(node, folder.listed)
        return others

    def _seen(self, place: str, home: str | None) -> tuple[Folder, Node]:
        folder = self._look(place)
        return folder, _node(folder, home)

    def _inside(self, node: Node, listed: Sequence[Entry]) -> None:
        """Take in what was made of an artifact and lies in its folder."""
        skipped = {samples.FOLDER, *node.folders}
        for name in inner([each for each in listed if each.name not in skipped]):
            group = self._look(f"{node.place}/{name}")
            self._note(group.listed)
            self._point(group, node.place)
            names = [each for each in inner(group.listed) if _FOLDER.fullmatch(each)]
            self._artifacts([f"{group.place}/{name}" for name in names], node.place, False)


def _is_group(listed: Sequence[Entry]) -> bool:
    """Whether a folder that is named like an artifact only holds some: a run of such a name."""
    return bool(listed) and all(each.folder and _FOLDER.fullmatch(each.name) for each in listed)


def _node(folder: Folder, home: str | None) -> Node:
    """The artifact that a folder is, or may be."""
    spare = tuple(name for name in folder.folders if name.startswith("_"))
    known = {"home": home, "spare": spare, "has_tars": samples.FOLDER in folder.folders}
    if folder.state == COMMITTED:
        return _committed(folder, known)
    if folder.state == WITHDRAWN:
        changed = folder.files[WITHDRAWN_FILE].changed
        return Node(folder.place, WITHDRAWN, changed=changed, **known)
    size, changed = 0, 0.0
    known["marked"] = any(name != filesystem.TEMPORARY for name in spare)
    for entry in files_under(folder.url):
        if entry.url == join(folder.url, REMOVED):
            known["marked"] = True
            continue
        size, changed = size + entry.bytes, max(changed, entry.changed)
    return Node(folder.place, UNFINISHED, changed=changed, bytes=size, **known)


def _committed(folder: Folder, known: Mapping[str, Any]) -> Node:
    """What the manifest of an artifact tells."""
    manifest_url, changed = join(folder.url, MANIFEST), folder.files[MANIFEST].changed
    try:
        data = filesystem.read_bytes(manifest_url)
    except FileNotFoundError as error:
        raise SluiceError(f"{manifest_url} went away", "run the same command again") from error
    try:
        head, parts = read_manifest(manifest_url, data)
        spec, totals = head["spec"], head["totals"]
        return Node(
            folder.place,
            COMMITTED,
            kind=spec["kind"],
            stage=spec["stage"],
            parents=tuple(spec["parents"]),
            named=frozenset(found.group().decode() for found in _NAMED.finditer(data)),
            changed=changed,
            bytes=totals["bytes"],
            rows=totals["rows"],
            kept=totals["kept"],
            folders=frozenset(path.partition("/")[0] for path in parts.paths() if "/" in path),
            **known,
        )
    except SluiceError as error:
        problem = error.what
    except (ValueError, KeyError, TypeError) as error:
        problem = f"{manifest_url} cannot be read: {error}"
    return Node(folder.place, COMMITTED, changed=changed, problem=problem, **known)
