"""Loops compiled to machine code by numba, kept on disk from one process to the next.

The code lies beside its source, or in the user's cache folder where that cannot be written;
NUMBA_CACHE_DIR names another. numba looks for changes in the file of a loop alone: a loop calls
only loops of its own file.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import numba as nb
from numba.core.caching import FunctionCache

Args = ParamSpec("Args")
Result = TypeVar("Result")


def compiled(function: Callable[Args, Result], **options: Any) -> Callable[Args, Result]:
    """Compile on first call and keep the machine code on disk where a folder can be written.

    Other threads run meanwhile: the loop lets go of Python's lock. options: of `numba.njit`.
    """
    told: Any = {"nogil": True, **options}
    loop = nb.njit(**told)(function)
    with contextlib.suppress(RuntimeError):  # no folder can be written: a read-only installation
        loop._cache = Kept(function)  # type: ignore[attr-defined]
    return loop


class Kept(FunctionCache):
    """numba's files of one loop, which may fail: what they do not give is compiled.

    numba writes the index of a loop and then its code, so that a process that reads between the
    two, or writes at the same time, could take other code for that of its types.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            with self._alone():
                return super().load_overload(sig, target_context)
        except OSError:  # the folder is gone, or cannot be read
            return None
        except Exception:  # what is there is no code: written by a machine that lost its power
            with contextlib.suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(OSError):  # a full disk, a folder that was made read-only
            self._impl.locator.ensure_cache_path()
            with self._alone():
                super().save_overload(sig, data)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process reads or writes in the folder; where it cannot be locked, they may."""
        folder = os.open(self.cache_path, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)
