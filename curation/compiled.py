"""Loops compiled to machine code by numba, kept on disk from one process to the next."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba as nb

Args = ParamSpec("Args")
Result = TypeVar("Result")


def compiled(function: Callable[Args, Result]) -> Callable[Args, Result]:
    """Compile on first call and keep the machine code on disk where a folder can be written."""
    try:
        return nb.njit(cache=True)(function)
    except RuntimeError:  # numba found no folder for its cache: a read-only installation
        return nb.njit(function)
