"""Looking through a store: from its folders to the catalogue of what lies in them."""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from infra import filesystem, samples
from infra.artifacts import MANIFEST
from infra.dataset import LATEST
from infra.digests import DIGEST_LENGTH
from infra.errors import SluiceError
from infra.filesystem import join
from infra.filesystem.entries import Entry, entries, files_under
from infra.manifest import read_manifest
from infra.store import (
    COMMITTED,
    REMOVED,
    UNFINISHED,
    WITHDRAWN,
    Catalogue,
    Node,
    Pointer,
)
from infra.tags import read_tags
from infra.withdrawn import WITHDRAWN_FILE

AT_ONCE = 16  # folders asked about, and manifests held, at a time

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
        groups = _folders(top)
        for depth in range(2):
            found = self.threads.map(entries, (join(self.store, group) for group in groups))
            inner: list[str] = []
            for group, listed in zip(groups, found, strict=True):
                self._note(listed)
                self._point(group, listed, None)
                inner += [f"{group}/{name}" for name in _folders(listed)]
            named = [place for place in inner if _FOLDER.fullmatch(place.rpartition("/")[2])]
            others = self._artifacts([(place, None) for place in named], groups_too=depth == 0)
            groups = [place for place in inner if place not in set(named)] + others

    def _note(self, listed: Sequence[Entry]) -> None:
        """Note what is of no use to anybody once who wrote it is gone."""
        for entry in listed:
            if entry.folder and entry.name == filesystem.TEMPORARY:
                self.spare.append(self._place(entry.url))

    def _place(self, url: str) -> str:
        return url[len(self.store.rstrip("/")) + 1 :]

    def _point(self, folder: str, listed: Sequence[Entry], home: str | None) -> None:
        for entry in listed:
            if not entry.folder and entry.name.startswith(LATEST):
                found = _NAMED.search(filesystem.read_bytes(entry.url))
                digest = found.group().decode() if found else ""
                self.pointers.append(Pointer(f"{folder}/{entry.name}", digest, home))

    def _artifacts(self, places: Sequence[tuple[str, str | None]], groups_too: bool) -> list[str]:
        """Take these folders in; returns those that are none, but hold some."""
        urls = [join(self.store, place) for place, _ in places]
        names, homes = [place for place, _ in places], [home for _, home in places]
        others: list[str] = []
        looked = self.threads.map(_look, names, urls, homes)
        for (place, home), (listed, node) in zip(places, looked, strict=True):
            if groups_too and node.state == UNFINISHED and _is_group(listed):
                others.append(place)
                continue
            self.nodes.append(node)
            if home is None:
                self._inside(node, listed)
        return others

    def _inside(self, node: Node, listed: Sequence[Entry]) -> None:
        """Take in what was made of an artifact and lies in its folder."""
        skipped = {samples.FOLDER, *node.folders}
        for folder in _folders([each for each in listed if each.name not in skipped]):
            place = f"{node.place}/{folder}"
            within = entries(join(self.store, place))
            self._note(within)
            self._point(place, within, node.place)
            names = [each for each in _folders(within) if _FOLDER.fullmatch(each)]
            self._artifacts([(f"{place}/{name}", node.place) for name in names], False)


def _folders(listed: Sequence[Entry]) -> list[str]:
    """The names of folders to look into."""
    return [each.name for each in listed if each.folder and not each.name.startswith("_")]


def _is_group(listed: Sequence[Entry]) -> bool:
    """Whether a folder that is named like an artifact only holds some: a run of such a name."""
    return bool(listed) and all(each.folder and _FOLDER.fullmatch(each.name) for each in listed)


def _look(place: str, url: str, home: str | None) -> tuple[list[Entry], Node]:
    listed = entries(url)
    files = {entry.name: entry for entry in listed if not entry.folder}
    folders = [entry.name for entry in listed if entry.folder]
    spare = tuple(name for name in folders if name.startswith("_"))
    known = {"home": home, "spare": spare, "has_tars": samples.FOLDER in folders}
    if MANIFEST in files:
        return listed, _committed(place, url, files[MANIFEST].changed, known)
    if WITHDRAWN_FILE in files:
        changed = files[WITHDRAWN_FILE].changed
        return listed, Node(place, WITHDRAWN, changed=changed, **known)
    size, changed = 0, 0.0
    known["marked"] = any(name != filesystem.TEMPORARY for name in spare)
    for entry in files_under(url):
        if entry.url == join(url, REMOVED):
            known["marked"] = True
            continue
        size, changed = size + entry.bytes, max(changed, entry.changed)
    return listed, Node(place, UNFINISHED, changed=changed, bytes=size, **known)


def _committed(place: str, url: str, changed: float, known: Mapping[str, Any]) -> Node:
    """What the manifest of an artifact tells."""
    manifest_url = join(url, MANIFEST)
    try:
        data = filesystem.read_bytes(manifest_url)
        head, parts = read_manifest(manifest_url, data)
        spec, totals = head["spec"], head["totals"]
        return Node(
            place,
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
    except FileNotFoundError as error:
        raise SluiceError(f"{manifest_url} went away", "run the same command again") from error
    except SluiceError as error:
        return Node(place, COMMITTED, changed=changed, problem=error.what, **known)
    except (ValueError, KeyError, TypeError) as error:
        problem = f"{manifest_url} cannot be read: {error}"
        return Node(place, COMMITTED, changed=changed, problem=problem, **known)
