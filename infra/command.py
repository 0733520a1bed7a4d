"""A command line of a package: `python -m PACKAGE COMMAND`."""

import sys
from collections.abc import Callable

from cyclopts import App

from infra.errors import SluiceError


def command_line(name: str, about: str) -> App:
    """An app without commands; its help is markdown."""
    return App(
        name=name, help=about, help_flags=["--help"], version_flags=[], help_format="markdown"
    )


def run_command(app: Callable[[], object]) -> None:
    """Run a command; a failure is one message and an exit code, no traceback."""
    try:
        app()
    except SluiceError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
