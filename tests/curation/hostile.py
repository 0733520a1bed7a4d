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
