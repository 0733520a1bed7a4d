"""What the tests let a sandbox's child do; imports little, as the child does."""

import math
import os
import signal
import subprocess
import time


def work(item: object) -> object:
    """What hostile bytes may do: ("name", argument), or a plain item that comes back."""
    name, argument = item if isinstance(item, tuple) else ("", item)
    if name == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "hang":
        time.sleep(argument)
    if name == "spin":
        sum(range(10**12))
    if name == "eat":
        return len(bytearray(argument))
    if name == "raise":
        raise ValueError(argument)
    if name == "pid":
        return os.getpid()
    if name == "class":
        return math.nan if argument else subprocess.Popen
    return argument


def prepare_all(items: list[tuple[bytes, object]]) -> list[tuple[tuple[object, ...] | None, None]]:
    """As curation.prepare does, but b"crash" ends the child; others come back in capitals."""
    made: list[tuple[tuple[object, ...] | None, None]] = []
    for data, _ in items:
        if data == b"crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        reason = "decode_failed" if data == b"broken" else None
        changed = None if reason else data.upper()
        made.append(((changed, "jpg", 1, 1, 2, 2, reason), None))
    return made
