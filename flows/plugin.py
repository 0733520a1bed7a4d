"""The Prefect plugin that adds `prefect run`.

Prefect loads it from the `prefect.plugins` entry point while `prefect` itself is being
imported, wherever plugins are enabled ([tool.prefect.plugins] in pyproject.toml, or
PREFECT_PLUGINS_ENABLED=true). `_app`, the root of Prefect's command line, is a private name:
tests/flows/test_plugin.py watches it, and `python -m flows` does without it.
"""

import sys
from pathlib import Path

from prefect.plugins import HookContext, SetupResult, register_hook

from flows import environment
from flows.cli import app


@register_hook
def setup_environment(*, ctx: HookContext) -> SetupResult:
    """Prefect's start-up hook: add the `run` command and the environment it needs."""
    from prefect.cli._app import _app

    _app.command(app, name="run")
    values = dict(environment.PRIVATE)
    if is_prefect_run(sys.argv):
        values |= environment.QUIET
    return SetupResult(env=environment.missing(values), note="prefect run")


def is_prefect_run(arguments: list[str]) -> bool:
    """Whether this process is `prefect run ...`, and not a worker or a flow run of one."""
    program, *rest = arguments or [""]
    return Path(program).name in ("prefect", "-m", "__main__.py") and "run" in rest[:4]
