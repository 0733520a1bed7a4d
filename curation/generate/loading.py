"""What loading a model by diffusers or transformers has in common."""

import contextlib
import importlib
import logging
from collections.abc import Generator
from typing import Any

from curation.generate.model import INSTALL
from indexes.hub import quiet_loading
from infra.errors import SluiceError

MADE_UP = "newly initialized"  # what both libraries say of weights that a file lacks
LIBRARIES = ("diffusers", "transformers")


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
