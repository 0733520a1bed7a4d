"""The registry of objectives: `DECLARED` of each file here, found by the file's name.

Light: a recipe is read and checked without importing PyTorch. The code of an objective is
`pretrain/objectives/<name>.py`.
"""

import importlib
import pkgutil
from functools import cache
from typing import Any

from pydantic import ValidationError

from pretrain.declare import Declared, Options


@cache
def names() -> tuple[str, ...]:
    """All objectives, in alphabetical order."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def declared(name: Any) -> Declared:
    """What the objective of this name declares; raises ValueError for any other value."""
    if not isinstance(name, str) or name not in names():
        raise ValueError(f"objective is {name!r}; use one of {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}").DECLARED


def read(name: str, value: Any) -> Options:
    """`value` as options of the objective; ValueError names every mistake and what is known."""
    model = declared(name).options
    try:
        return model.model_validate(value)
    except ValidationError as error:
        known = f"unknown; {name} knows {', '.join(model.model_fields)}"
        lines = [
            f"options.{'.'.join(map(str, problem['loc']))}: "
            + (
                known
                if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1
                else problem["msg"]
            )
            for problem in error.errors()
        ]
        raise ValueError("; ".join(lines)) from None
