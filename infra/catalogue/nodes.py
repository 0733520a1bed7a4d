"""The catalogue of a store: what lies in it, and what refers to what.

    <store>/<name>/<digest>/                     versions, evaluations, ...
    <store>/<name>/<name>/<digest>/              runs, tables, ...
    <store>/.../<digest>/<what>/<digest>/        what was made of a version: scores, verdicts, ...
    <store>/<name>/latest, <version>/<what>/latest*    pointers: the digest of one beside them
    <store>/_tags/<tag>                          the place of an artifact that is to stay

An artifact's folder is named by its digest, or by a name, "-" and its digest. So it is found
wherever a package puts it, and no table here has to name other packages' folders. Files of shards
are never listed: a store is as quick to look through with 100,000 shards as with one.

An artifact refers to every other whose digest stands anywhere in its manifest: parents, the
version that its settings name, the quantizer of an index. A chance match keeps too much, never too
little. Tars that are used where they are (infra.samples) refer to the artifact they lie in.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from infra import filesystem, samples
from infra.dataset import LATEST
from infra.digests import DIGEST_LENGTH
from infra.errors import SluiceError
from infra.filesystem import join
from infra.samples import Tar

COMMITTED, UNFINISHED, WITHDRAWN = "committed", "unfinished", "withdrawn"
TAGS = "_tags"
REMOVED = f"{filesystem.TEMPORARY}/removed"  # marks an artifact whose removal has begun
DATASET = "dataset"
TARS_AT_ONCE = 256  # lists of tars


@dataclass(frozen=True)
class Node:
    """An artifact, a finished one or not, or a version that was withdrawn.

    place: its folder within the store. home: the place of the artifact it lies in. named: digests
    that its manifest names, its own and strange ones among them. changed: when its manifest was
    put, else when its newest file was written; seconds since 1970. bytes: of its files, as its
    manifest has them. spare: folders in it that only an unfinished artifact needs. problem: why
    its manifest cannot be read. folders: in it, of the files that the manifest has.
    marked: what lies in it shows that it is, or was, an artifact, although it has no manifest.
    """

    place: str
    state: str
    kind: str = ""
    stage: str = ""
    home: str | None = None
    parents: tuple[str, ...] = ()
    named: frozenset[str] = frozenset()
    changed: float = 0.0
    bytes: int = 0
    rows: int = 0
    kept: int = 0
    spare: tuple[str, ...] = ()
    folders: frozenset[str] = frozenset()
    has_tars: bool = False
    marked: bool = False
    problem: str = ""

    @property
    def digest(self) -> str:
        return self.place[-DIGEST_LENGTH:]

    @property
    def is_version(self) -> bool:
        return self.kind == DATASET and self.home is None

    @property
    def label(self) -> str:
        """As people name it: a version NAME@VERSION, all else by its place."""
        return self.place.replace("/", "@") if self.is_version else self.place


@dataclass(frozen=True)
class Pointer:
    """A file that names one of the artifacts beside it. home: of the artifact it lies in."""

    place: str
    digest: str
    home: str | None

    @property
    def target(self) -> str:
        return f"{self.place.rpartition('/')[0]}/{self.digest}"


@dataclass(frozen=True)
class Catalogue:
    """A store at one moment. spare: litter beside the artifacts, by place."""

    store: str
    nodes: Mapping[str, Node]
    pointers: Sequence[Pointer]
    tags: Mapping[str, str]  # name -> place
    spare: Sequence[str]

    def url(self, place: str) -> str:
        return join(self.store, place)

    @cached_property
    def _by_digest(self) -> Mapping[str, Sequence[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for place, node in self.nodes.items():
            found[node.digest].append(place)
        return found

    @cached_property
    def references(self) -> Mapping[str, frozenset[str]]:
        """The places of what each committed artifact refers to by digest, and of its home."""
        found: dict[str, frozenset[str]] = {}
        for place, node in self.nodes.items():
            named = {each for digest in node.named for each in self._by_digest.get(digest, ())}
            found[place] = frozenset((named | ({node.home} if node.home else set())) - {place})
        return found

    @cached_property
    def within(self) -> Mapping[str, Sequence[str]]:
        """The places of what was made of an artifact and lies in its folder."""
        found: dict[str, list[str]] = defaultdict(list)
        for place, node in self.nodes.items():
            if node.home:
                found[node.home].append(place)
        return found

    def tars(self, place: str) -> Iterator[tuple[str, str, Tar]]:
        """(shard, whole URL, tar) of the tars that a version uses where they are."""
        folder, node = self.url(place), self.nodes[place]
        if not node.has_tars:
            return
        files = filesystem.list_files(join(folder, samples.FOLDER))
        for start in range(0, len(files), TARS_AT_ONCE):
            batch = files[start : start + TARS_AT_ONCE]
            for file, data in zip(batch, filesystem.read_many(batch), strict=True):
                shard = file.rpartition("/")[2].removesuffix(".json")
                for tar in samples.parse_tars(data or b"[]"):
                    if tar != samples.own_tar(shard):
                        yield shard, samples.locate(folder, tar.url), tar

    def place_of(self, url: str) -> str | None:
        """The place of the artifact in whose folder a file of this store lies."""
        path, base = filesystem.resolve(url)[1], filesystem.resolve(self.store)[1].rstrip("/")
        if not path.startswith(f"{base}/") or filesystem.is_local(url) != self._is_local:
            return None
        words = path[len(base) + 1 :].split("/")
        places = ("/".join(words[:count]) for count in range(len(words) - 1, 1, -1))
        return next((place for place in places if place in self.nodes), None)

    @cached_property
    def _is_local(self) -> bool:
        return filesystem.is_local(self.store)

    def check(self) -> None:
        """SluiceError where a manifest cannot be read, so that nobody knows what it refers to."""
        for node in self.nodes.values():
            if node.problem:
                raise SluiceError(
                    node.problem, "mend or remove that folder first: `prefect run verify` tells all"
                )

    def find(self, name: str) -> Node:
        """The artifact that a name stands for.

        NAME (its latest version), NAME~2 (the second before it by age), NAME@VERSION, a tag, a
        place as `runs/clip/0123456789abcdef`, or the URL of one. VERSION may be the beginning of
        a digest. Raises SluiceError where there is none.
        """
        if name in self.tags and self.tags[name] in self.nodes:
            return self.nodes[self.tags[name]]
        url = self.store.rstrip("/") + "/"
        place = name.removeprefix(url).strip("/").replace("@", "/")
        base, _, back = place.partition("~")
        if "/" not in base:
            return self._latest(base, int(back) if back.isdecimal() else 0, name)
        found = [each for each in self.nodes if each == base or each.startswith(base)]
        exact = [each for each in found if each == base or not self.nodes[each].home] or found
        if len(exact) == 1:
            return self.nodes[exact[0]]
        raise SluiceError(
            f"{name} is {'not' if not exact else 'more than one thing'} in {self.store}",
            self._known(base.partition("/")[0]),
        )

    def _latest(self, name: str, back: int, asked: str) -> Node:
        pointed = {each.place: each.target for each in self.pointers}.get(f"{name}/{LATEST}", "")
        if pointed not in self.nodes:
            raise SluiceError(f"there is no dataset {name!r} in {self.store}", self._known(name))
        latest = self.nodes[pointed]
        older = [each for each in self.versions(name) if each.changed < latest.changed]
        line = [latest, *sorted(older, key=lambda each: -each.changed)]
        if back >= len(line):
            raise SluiceError(f"{asked} is not in {self.store}", self._known(name))
        return line[back]

    def versions(self, name: str | None = None) -> list[Node]:
        """The committed versions of a dataset, or of all."""
        return [
            node
            for node in self.nodes.values()
            if node.is_version and (name is None or node.place.partition("/")[0] == name)
        ]

    def _known(self, name: str) -> str:
        there = sorted(each.label for each in self.versions(name)) or sorted(
            {each.place.partition("/")[0] for each in self.versions()}
        )
        return f"there are {', '.join(there[:20])}" if there else "check --store: it is empty"
