"""The child's half of `curation.sandbox`: answers items until its parent is gone.

Run as `python -m curation.sandbox_child SOCKET`. It ends itself: by SIGALRM when an item takes
longer than the deadline, even in C code and without a parent; with OUT_OF_MEMORY when memory runs
out, so that what is left of that item ends with it.
"""

import io
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import traceback
from pathlib import Path
from typing import Any, cast

OUT_OF_MEMORY = 77  # exit status
BUFFER = 2**18  # bytes read at once
LENGTH = struct.Struct("=Q")  # before each answer


def serve(connection: socket.socket) -> None:
    """Read a pickled (function, deadline in seconds, memory in bytes), then tuples of arguments.

    Answers (None, None) when ready, then (result, None) for each item, or (None, traceback).
    """
    with connection.makefile("rb", BUFFER) as items:
        try:
            function, deadline, memory = pickle.loads(pickle.load(items))
            limit_memory(memory)
        except Exception:
            connection.sendall(_pack((None, traceback.format_exc())))
            return
        connection.sendall(_pack((None, None)))
        reader = cast(io.BufferedReader, items)
        while reader.peek(1):
            signal.setitimer(signal.ITIMER_REAL, deadline)
            connection.sendall(_answer(function, reader))
            signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(function: Any, items: io.BufferedReader) -> bytes:
    try:
        return _pack((function(*pickle.load(items)), None))
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Exception:
        return _pack((None, traceback.format_exc()))


def _pack(answer: tuple[Any, str | None]) -> bytes:
    data = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(data)) + data


def limit_memory(memory: int) -> None:
    """Allow `memory` bytes of address space more than there is now (Linux only)."""
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=int(sys.argv[1])) as parent:
        serve(parent)
