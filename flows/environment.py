"""What our entry points put into the environment before Prefect and Ray are imported.

A value the user has set stays. Nothing here imports Prefect or Ray.
"""

import atexit
import os
import sys
from collections.abc import Mapping

PRIVATE: Mapping[str, str] = {  # no tool of ours phones home
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}
QUIET: Mapping[str, str] = {  # our own progress lines and messages are what a person sees
    # Only the console: a server of one's own still gets every log record.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    # Two slow cores need 15 s for the first start of a temporary server; Prefect allows 20.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}


def missing(values: Mapping[str, str]) -> dict[str, str]:
    """The values that the environment does not hold yet."""
    return {name: value for name, value in values.items() if name not in os.environ}


def prepare() -> None:
    """Make this process, and those it starts, private and quiet."""
    os.environ.update(missing({**PRIVATE, **QUIET}))


def quiet_exit() -> None:
    """Hide what Prefect's threads print while Python shuts down; results are out by then.

    Call it after Prefect has run: exit functions run in reverse order.
    """
    atexit.register(_mute_standard_error)


def _mute_standard_error() -> None:
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
