"""What two versions were made with, and where that differs: flat keys, old and new values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from indexes.embeddings import store_of
from infra import artifacts
from infra.dataset import Dataset
from infra.filesystem import join

MADE_OF = ("verdicts", "edges", "selection")  # settings that name an artifact of the source


@dataclass(frozen=True)
class Changed:
    """One setting. None: the version has none of that name."""

    key: str
    old: Any
    new: Any


def changed_settings(before: Dataset, after: Dataset) -> list[Changed]:
    """The settings that differ: of the versions, and of the decisions and scores in them.

    Of versions that were made in different ways, only those that both have.
    """
    old, new = made_with(before), made_with(after)
    alike = old["made by"] == new["made by"]
    keys = old.keys() | new.keys() if alike else old.keys() & new.keys()
    return [
        Changed(key, old.get(key), new.get(key))
        for key in sorted(keys)
        if old.get(key) != new.get(key)
    ]


def made_with(version: Dataset) -> dict[str, Any]:
    """All settings behind a version by flat key, `verdicts.rules.blank.max`.

    Where it was selected from another one, those of the verdicts, pairs, selection and scores that
    decided, and of that other version, as far as they are in the store.
    """
    settings = dict(version.artifact.settings)
    found: dict[str, Any] = {"made by": version.artifact.manifest["spec"]["stage"]}
    match settings:
        case {"source": {"dataset": str(name), "version": str(digest)}}:
            source = join(store_of(version), name, digest)
        case _:
            return found | flat(settings)
    del settings["source"]
    found["source"] = f"{name}@{digest}"
    found |= _of(source, "source")
    for kind in MADE_OF:
        if kind in settings:
            made = settings.pop(kind)
            found |= _of(join(source, kind, str(made)), kind)
    for scorer, folder in settings.pop("scores", {}).items():
        found[f"scores.{scorer}"] = folder.rpartition("-")[2]
        found |= _of(join(source, "scores", folder), f"scores.{scorer}")
    return found | flat(settings)


def _of(url: str, name: str) -> dict[str, Any]:
    """The settings of the artifact at a URL, and whose code made it."""
    artifact = artifacts.load(url)
    if artifact is None:
        return {}
    settings = {key: value for key, value in artifact.settings.items() if key != "scores"}
    if name != "edges":
        settings.pop("edges", None)  # a digest, and told by its own settings
    return flat({**settings, "code": artifact.manifest["spec"]["code"]}, f"{name}.")


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by flat key; entries of a list by `reason` or `name`, else number."""
    if isinstance(value, Mapping):
        entries = [(str(key), each) for key, each in value.items()]
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        entries = [(_entry_name(each, place), each) for place, each in enumerate(value)]
    else:
        return {prefix.rstrip("."): value}
    found: dict[str, Any] = {}
    for key, each in entries:
        found |= flat(each, f"{prefix}{key}.")
    return found


def _entry_name(entry: Any, place: int) -> str:
    known = entry if isinstance(entry, Mapping) else {}
    names = (known.get(key) for key in ("reason", "name", "vectors"))
    return next((str(name) for name in names if name), str(place))
