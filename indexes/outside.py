"""Backbones of other packages, which register them with timm.

Such a package names, in the entry points of the group `sluice.backbones`, modules that call
`timm.models.register_model`. They are imported once a name is asked for that timm does not know.
"""

from functools import cache
from importlib.metadata import EntryPoint, entry_points

import timm

from infra.errors import SluiceError

GROUP = "sluice.backbones"


def is_model(name: str) -> bool:
    """Whether timm builds a model of this name, be it its own or one of another package.

    SluiceError, which names the package, where one of those cannot be imported.
    """
    if timm.is_model(name):
        return True
    _import()
    return timm.is_model(name)


def check(name: str) -> None:
    """SluiceError unless `is_model`."""
    if not is_model(name):
        raise SluiceError(
            f"timm knows no model {name!r}",
            "use a name timm.list_models() gives, or install the package that has it "
            f"(entry points {GROUP})",
        )


@cache
def _import() -> None:
    for found in entry_points(group=GROUP):
        try:
            found.load()
        except Exception as error:  # whatever a package raises
            raise SluiceError(
                f"the package {_package(found)} has backbones in {found.value}, which cannot be "
                f"imported: {type(error).__name__}: {error}",
                f"mend {_package(found)}, or uninstall it",
            ) from error


def _package(found: EntryPoint) -> str:
    return found.dist.name if found.dist else found.name
