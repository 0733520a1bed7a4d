"""What takes the place of a version and of its scores: specifications, before any work."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curation.takedown.list import TakedownList
from infra import artifacts, filesystem
from infra.artifacts import MANIFEST, Artifact, Spec
from infra.filesystem import join
from infra.stage import Draft

STAGE = "curation.takedown"
CODE = 1
SCORED = "curation.scores."  # stages that look at one row at a time, each apart
# What other artifacts decided of the old version, and where else its samples could be drawn from:
# the first go with it, the second would bring back what went.
LEFT_OUT = ("verdicts", "edges", "selection", "drawer", "drawn")
_WORD = re.compile(r"[0-9a-f]{16}")

Names = dict[str, str | None]  # old digest -> new one; None: that goes with the old version


@dataclass(frozen=True)
class Successor:
    """A version to be rewritten, what comes in its place, and the scores that are carried over.

    scores: by name of the old score folder, the new one.
    """

    old: Artifact
    draft: Draft
    scores: Mapping[str, Draft]


def affected(versions: Sequence[Artifact], touched: Collection[str]) -> list[Artifact]:
    """The versions (by digest) that are touched or made from such, each after what it is made of.

    A version names what it is made of in its parents and in its settings.
    """
    by_digest = {version.digest: version for version in versions}
    made_of = {digest: _named(version) & by_digest.keys() - {digest}
               for digest, version in by_digest.items()}  # fmt: skip
    order: list[Artifact] = []
    reached: dict[str, bool] = {}

    def visit(digest: str) -> bool:
        if digest not in reached:
            reached[digest] = False
            # All of them, each before this one.
            below = [visit(each) for each in sorted(made_of[digest])]
            reached[digest] = any(below) or digest in touched
            if reached[digest]:
                order.append(by_digest[digest])
        return reached[digest]

    for version in versions:
        visit(version.digest)
    return order


def _named(version: Artifact) -> set[str]:
    spec = version.manifest["spec"]
    return {*_WORD.findall(json.dumps([spec["settings"], spec["parents"]]))}


def successors(order: Sequence[Artifact], known: TakedownList, takedown: str) -> list[Successor]:
    """What takes the place of each version, in the order in which it can be made."""
    names: Names = {}
    for version in order:
        names[version.digest] = None
    found: list[Successor] = []
    for old in order:
        spec = _successor_spec(old, known, takedown, names)
        url = join(old.url.rstrip("/").rpartition("/")[0], spec.digest)
        names[old.digest] = spec.digest
        found.append(Successor(old, Draft(url, spec), _carried(old, url, spec.digest, names)))
    return found


def _successor_spec(old: Artifact, known: TakedownList, takedown: str, names: Names) -> Spec:
    settings = {name: each for name, each in old.settings.items() if name not in LEFT_OUT}
    settings = renamed(settings, names)
    settings["takedown"] = {"id": takedown, "list": known.digest}
    return Spec("dataset", STAGE, settings, (old.digest,), CODE)


def renamed(value: Any, names: Names) -> Any:
    """A JSON value with the names of what was rewritten; entries of what is gone are left out.

    A name is a digest, or a score folder's NAME-DIGEST.
    """
    if isinstance(value, Mapping):
        new = {key: renamed(each, names) for key, each in value.items()}
        return {key: each for key, each in new.items() if each is not None or value[key] is None}
    if isinstance(value, list | tuple):
        return [renamed(each, names) for each in value]
    if not isinstance(value, str):
        return value
    scorer, dash, digest = value.rpartition("-")
    if digest not in names:
        return value
    new = names[digest]
    return None if new is None else f"{scorer}{dash}{new}"


def score_artifacts(version_url: str) -> Iterator[Artifact]:
    """The committed scores of a version, by folder."""
    for url in filesystem.list_files(join(version_url, "scores", "*", MANIFEST)):
        artifact = artifacts.load(url.rpartition("/")[0])
        if artifact is not None:
            yield artifact


def _carried(old: Artifact, url: str, digest: str, names: Names) -> dict[str, Draft]:
    """The scores that are those of the successor as well, under the digest that these will have.

    Those of one row apart from all others, whose settings name nothing that is rewritten: else
    they were measured against samples that are gone. Fills in `names`.
    """
    waiting = {artifact.digest: artifact for artifact in score_artifacts(old.url)}
    names |= dict.fromkeys(waiting)
    found: dict[str, Draft] = {}
    while waiting:
        ready = [
            artifact
            for artifact in waiting.values()
            if not waiting.keys() & {*artifact.manifest["spec"]["parents"]}
        ]
        for artifact in ready:
            del waiting[artifact.digest]
            draft = _carried_draft(artifact, old.digest, url, names)
            if draft is not None:
                names[artifact.digest] = draft.spec.digest
                found[artifact.url.rpartition("/")[2]] = draft
    return found


def _carried_draft(artifact: Artifact, dataset: str, url: str, names: Names) -> Draft | None:
    spec = artifact.manifest["spec"]
    first, *others = spec["parents"] or [""]
    aligned = spec["kind"] == "scores" and spec["stage"].startswith(SCORED) and first == dataset
    gone = any(each in names and names[each] is None for each in others)
    if not aligned or gone or _named_in(spec["settings"], names):
        return None
    parents = tuple(names.get(parent) or parent for parent in spec["parents"])
    new = Spec(spec["kind"], spec["stage"], spec["settings"], parents, spec["code"])
    scorer = artifact.url.rpartition("/")[2].rpartition("-")[0]
    return Draft(join(url, "scores", f"{scorer}-{new.digest}"), new)


def _named_in(settings: Mapping[str, Any], names: Names) -> bool:
    return not names.keys().isdisjoint(_WORD.findall(json.dumps(settings)))
