"""`lineage`: what an artifact is made of, down to its sources, and what was made of it."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from flows.main import store_url
from flows.store.text import clean
from infra import artifacts
from infra.catalogue.nodes import Catalogue, Node
from infra.catalogue.survey import survey
from infra.dataset import Dataset
from infra.progress import Display

Edges = Mapping[str, Sequence[str]]  # place -> places


@dataclass(frozen=True)
class Lineage:
    """An artifact and its kin. made_of, made_into: edges without those that others imply.

    sources: of each version that was made of no other one, what its manifest says of where it is
    from, and, where they were counted, its rows with a URL.
    """

    catalogue: Catalogue
    of: Node
    made_of: Edges
    made_into: Edges
    sources: Mapping[str, Mapping[str, Any]]

    def to_json(self) -> str:
        """All of it, for programs."""
        places = {self.of.place, *_all(self.made_of), *_all(self.made_into)}
        nodes = [self.catalogue.nodes[place] for place in sorted(places)]
        found = {
            "of": self.of.place,
            "artifacts": {
                node.place: {
                    "kind": node.kind,
                    "made_by": node.stage,
                    "rows": node.rows,
                    "kept": node.kept,
                    "bytes": node.bytes,
                    **({"source": self.sources[node.place]} if node.place in self.sources else {}),
                }
                for node in nodes
            },
            "made_of": {place: list(each) for place, each in self.made_of.items() if each},
            "made_into": {place: list(each) for place, each in self.made_into.items() if each},
        }
        return json.dumps(found, indent=1, sort_keys=True)

    def __str__(self) -> str:
        lines = ["made of", *self._tree(self.made_of)]
        lines += ["", "made into", *self._tree(self.made_into)]
        return "\n".join(lines)

    def _tree(self, edges: Edges) -> list[str]:
        told: set[str] = set()
        lines: list[str] = []
        waiting = [([self.of.place], "", "")]
        while waiting:
            places, lead, deeper = waiting.pop()
            below = edges.get(places[0], ())
            again = places[0] in told and bool(below)
            lines.append(f"{lead}{self._line(places)}{' (see above)' if again else ''}")
            if again:
                continue
            told.update(places)
            if edges is self.made_of:
                lines += [f"{deeper}   {line}" for line in self._source(places[0])]
            groups = self._groups(below, edges)
            for number, each in reversed(list(enumerate(groups))):
                last = number == len(groups) - 1
                branch, rest = ("└─ ", "   ") if last else ("├─ ", "│  ")
                waiting.append((each, deeper + branch, deeper + rest))
        return lines

    def _groups(self, places: Sequence[str], edges: Edges) -> list[list[str]]:
        """Scores and the like that lie in one version and lead on to the same are one line."""
        found: dict[tuple[Any, ...], list[str]] = {}
        for place in places:
            home = self.catalogue.nodes[place].home
            key = (home, *edges.get(place, ())) if home else (place,)
            found.setdefault(key, []).append(place)
        return list(found.values())

    def _line(self, places: Sequence[str]) -> str:
        node = self.catalogue.nodes[places[0]]
        if node.home is not None:
            names = (place.removeprefix(f"{node.home}/") for place in places)
            return f"{self.catalogue.nodes[node.home].label}: {', '.join(names)}"
        if node.is_version:
            return f"{node.label}  {node.kept:,} of {node.rows:,} rows kept"
        return f"{node.label}  {node.kind or node.state}"

    def _source(self, place: str) -> Iterator[str]:
        for key, value in self.sources.get(place, {}).items():
            yield clean(f"{key}: {value}")


def lineage(
    store: str | None, name: str, display: Display | None = None, urls: bool = False
) -> Lineage:
    """The kin of an artifact by name. urls: also count the URLs of its sources, with `display`."""
    catalogue = survey(store_url(store))
    node = catalogue.find(name)
    back: dict[str, list[str]] = {}
    for place, found in catalogue.references.items():
        homes = (catalogue.place_of(url) for _, url, _ in catalogue.tars(place))
        back[place] = sorted({*found, *(home for home in homes if home)} - {place})
    forward: dict[str, list[str]] = {place: [] for place in back}
    for place, found in back.items():
        for each in found:
            forward[each].append(place)
    made_of, made_into = reduced(back, node.place), reduced(forward, node.place)
    places = sorted({node.place, *_all(made_of)})
    sources = {
        place: _source_of(catalogue, place, display if urls else None)
        for place in places
        if catalogue.nodes[place].is_version and not _versions(catalogue, back[place])
    }
    return Lineage(catalogue, node, made_of, made_into, sources)


def _versions(catalogue: Catalogue, places: Iterable[str]) -> list[str]:
    return [place for place in places if catalogue.nodes[place].is_version]


def reduced(edges: Edges, start: str) -> dict[str, list[str]]:
    """What is reached from `start`, without edges that others of the same place imply."""
    reach: dict[str, set[str]] = {}

    def visit(place: str) -> set[str]:
        if place not in reach:
            reach[place] = set()  # of a cycle, which digests cannot make, no more is told
            for each in edges.get(place, ()):
                reach[place] |= {each, *visit(each)}
        return reach[place]

    visit(start)
    return {
        place: [
            each
            for each in sorted(edges.get(place, ()))
            if not any(each in reach[other] for other in edges[place] if other != each)
        ]
        for place in (start, *sorted(reach[start]))
    }


def _all(edges: Edges) -> set[str]:
    return {each for place, found in edges.items() for each in (place, *found)}


def _source_of(catalogue: Catalogue, place: str, display: Display | None) -> dict[str, Any]:
    """Where a version that was made of no other one comes from."""
    artifact = artifacts.load(catalogue.url(place))
    if artifact is None:
        return {}
    settings = artifact.settings
    found: dict[str, Any] = {"made by": artifact.manifest["spec"]["stage"]}
    if "fingerprint" in settings:
        found["fingerprint of its bytes"] = settings["fingerprint"]
    kinds = [each.get("kind", "") for each in settings.get("sources", ())]
    if kinds:
        found["sources"] = ", ".join(kinds)
    if "drawer" in settings:
        found["drawn by"] = settings["drawer"]
    if display is not None:
        found["rows with a URL"] = count_urls(Dataset(artifact), display)
    return found


def count_urls(version: Dataset, display: Display) -> int:
    """The rows of a version that have a URL."""
    line, count = display.stage(f"URLs of {version.artifact.digest}", len(version.shards)), 0
    for shard in version.shards:
        urls = version.rows(shard, ["url"])["url"]
        count += int(pc.sum(pc.not_equal(urls, "")).as_py() or 0)  # pyright: ignore[reportAttributeAccessIssue]
        line.advance(1)
    line.finish(f"{count} URLs")
    return count
