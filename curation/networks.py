"""Networks of diffusers and transformers, from a folder or a hub: what loading any has in common.

Light until one is loaded.
"""

import contextlib
import importlib
import logging
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

from infra import filesystem
from infra.errors import SluiceError

HUB = "hf-hub:"
INSTALL = "install sluice[generate]"
MADE_UP = "newly initialized"  # what both libraries say of weights that a file lacks
LIBRARIES = ("diffusers", "transformers")


class Place(NamedTuple):
    """What a library is given as a model's name: a folder's path, or OWNER/NAME on a hub."""

    name: str
    on_hub: bool


def find_place(model: str, kinds: str) -> Place:
    """Where a model is; kinds: what may be named, for the message.

    Raises SluiceError for a folder that is not there, and for a hub's name that is a path here: the
    libraries would take that.
    """
    if not model.startswith(HUB):
        return Place(str(local_folder(model, kinds)), False)
    name = model.removeprefix(HUB)
    if Path(name).exists():
        raise SluiceError(f"{model} is a path here, and no name of a hub", kinds)
    return Place(name, True)


def local_folder(location: str, kinds: str) -> Path:
    """The folder of this machine, or of a disk that all machines share, at a location."""
    folder = Path(filesystem.resolve(location)[1]) if filesystem.is_local(location) else None
    if folder is None or not folder.is_dir():
        raise SluiceError(f"no folder of this machine at {location}", kinds)
    return folder


def library(name: str) -> Any:
    """A library that is not installed everywhere; it has no type stubs, either."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SluiceError(f"{name} is not installed: {error}", INSTALL) from error


def first_line(error: BaseException) -> str:
    """An error's kind and words, short enough for a message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


@contextlib.contextmanager
def whole_weights(name: str, *libraries: str) -> Generator[None]:
    """Loading in silence; SluiceError where the libraries made up weights that a file lacks.

    name: of the model, for the message. Afterwards they tell of errors alone: else each prompt
    that is cut would be shown, whole.
    """
    from indexes.hub import quiet_loading

    listener = _Listener()
    loggers = [logging.getLogger(each) for each in libraries]
    for each in loggers:
        importlib.import_module(f"{each.name}.utils.logging").disable_progress_bar()
        each.setLevel(logging.WARNING)
        each.addHandler(listener)
    try:
        with quiet_loading():
            yield
    finally:
        for each in loggers:
            each.removeHandler(listener)
            each.setLevel(logging.ERROR)
    if listener.made_up:
        raise SluiceError(
            f"the weights of {name} are not whole: {listener.made_up}",
            "take the folder anew: what is missing would be random numbers",
        )


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.made_up = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if MADE_UP in text and not self.made_up:
            self.made_up = " ".join(text.split())[:300]
