"""What this process holds, and how its C library treats memory that is given back."""

import contextlib
import ctypes
import sys
from pathlib import Path

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


def forget_peak() -> None:
    """From now on `peak` counts anew. Linux only."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak becomes what is held now


def peak() -> int:
    """The most bytes of memory this process has held since; 0 where nobody can tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
