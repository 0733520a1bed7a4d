"""How the C library of this process treats memory that is given back."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
KEPT = 64 * 2**20  # bytes


def keep_freed_memory() -> None:
    """Let this process keep what it frees, up to KEPT bytes, instead of returning it at once.

    For work that takes and frees buffers of the same size all the time: to have their pages
    cleared by the system again and again was a quarter of the cost of fetching. glibc only.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, KEPT)
        mallopt(MMAP_THRESHOLD, KEPT // 2)
