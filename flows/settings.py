"""How a recipe file becomes typed settings: load, override, validate, explain what is wrong."""

import copy
import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from infra.errors import SluiceError

Model = TypeVar("Model", bound=BaseModel)


class Whole(dict[str, Any]):
    """A mapping written `!replace {...}`: it takes the place of the one below, unmerged."""


class _Loader(yaml.SafeLoader):
    """Plain YAML, and the tag `!replace` on a mapping."""


def _whole(loader: _Loader, node: yaml.Node) -> Whole:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(
            None, None, "!replace is for a mapping; a list or a value always replaces",
            node.start_mark,
        )  # fmt: skip
    found: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return Whole(found)


_Loader.add_constructor("!replace", _whole)


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError as error:
        raise SluiceError(f"no recipe at {path}", "give --recipe FILE, or leave it out") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SluiceError(f"{path} is not YAML: {error}", "mend the line it names") from error
    if not isinstance(value, dict):
        raise SluiceError(f"{path} holds no mapping", "start from one in flows/recipes/")
    return value


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`: mappings key by key, where null takes a key away.

    Lists and values of `above` replace those below, and so does a mapping that is `Whole`.
    """
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            under = old if isinstance(old, dict) and not isinstance(value, Whole) else {}
            merged[key] = merge(under, value)
        else:
            merged[key] = value
    return merged


def override(value: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """`value` with each "path.to.key=value" set; the right side is read as YAML.

    A number as a path step picks an element of a list; so does the `reason` or `name` of one.
    What a YAML anchor put into several places is changed in the one place alone.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise SluiceError(f"--set {assignment!r} is not path.to.key=value", "add the =")
        steps = path.split(".")
        value = dict(value)
        place: Any = value
        for step in steps[:-1]:
            place = _enter(place, step, path)
        _assign(place, steps[-1], yaml.safe_load(text), path)
    return value


def has_place(value: Any, assignment: str) -> bool:
    """Whether the mapping or list stands in `value` that "path.to.key=value" sets a key of."""
    for step in assignment.partition("=")[0].split(".")[:-1]:
        if isinstance(value, list):
            try:
                value = value[_position(value, step, assignment)]
            except SluiceError:
                return False
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return isinstance(value, dict | list)


def _position(place: list[Any], step: str, path: str) -> int:
    if step.isdigit() and int(step) < len(place):
        return int(step)
    names = [
        item.get("reason") or item.get("name") if isinstance(item, dict) else None for item in place
    ]
    if step in names:
        return names.index(step)
    raise SluiceError(
        f"--set {path}: no element {step!r} in that list",
        f"use one of {', '.join(str(name) for name in names if name)}, or a position from 0",
    )


def _enter(place: Any, step: str, path: str) -> Any:
    """What stands at a step, copied into its place: others may hold the same object."""
    key: Any = _position(place, step, path) if isinstance(place, list) else step
    if not isinstance(place, dict | list):
        raise SluiceError(f"--set {path}: {step!r} is inside a plain value", "shorten the path")
    if isinstance(place, dict) and place.get(key) is None:
        place[key] = {}
    place[key] = copy.copy(place[key])
    return place[key]


def _assign(place: Any, step: str, value: Any, path: str) -> None:
    if isinstance(place, list):
        place[_position(place, step, path)] = value
    elif isinstance(place, dict):
        place[step] = value
    else:
        raise SluiceError(f"--set {path}: {step!r} is inside a plain value", "shorten the path")


def validate(model: type[Model], value: Mapping[str, Any], source: str) -> Model:
    """`value` as `model`; every mistake is named with its key and the right ones."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = error.errors()
        lines = []
        for problem in problems:
            place = problem["loc"]
            # A list all of whose elements are wrong is not too short besides.
            inner = [each["loc"] for each in problems if len(each["loc"]) > len(place)]
            if problem["type"] == "too_short" and place in (loc[: len(place)] for loc in inner):
                continue
            text = problem["msg"]
            if problem["type"] == "extra_forbidden":
                text = "unknown key" + _nearest(model, place)
            lines.append(f"{'.'.join(map(str, place))}: {text}")
        raise SluiceError(
            f"{source} is not a valid recipe:\n    " + "\n    ".join(lines),
            "mend these keys; flows/README.md lists them all",
        ) from error


def _nearest(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """What to write for an unknown key: the nearest key of the model it stands in, or all."""
    fields = sorted({name for each in _models_at(model, location) for name in each.model_fields})
    close = difflib.get_close_matches(str(location[-1]), fields, 1)
    return f" (did you mean {close[0]!r}?)" if close else f"; there are {', '.join(fields)}"


def _models_at(
    model: type[BaseModel], location: tuple[int | str, ...]
) -> Sequence[type[BaseModel]]:
    """The models that the last step of a location may stand in."""
    current = [model]
    for step in location[:-1]:
        entered = [
            inner
            for each in current
            if step in each.model_fields
            for inner in _models_in(each.model_fields[str(step)].annotation)
        ]
        # Not a field: a position, a name, or which kind of several it is.
        current = entered or [each for each in current if step in _kinds(each)] or current
    return current


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    kind = model.model_fields.get("kind")
    return (model.__name__, *getattr(kind and kind.annotation, "__args__", ()))


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)
