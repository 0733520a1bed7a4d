"""Ingest as a recipe says, without Prefect: a process that submits jobs, and that tests can kill.

python -m tests.flows.submit RECIPE STORE [KEY=VALUE ...]      begins once it is given a line
"""

import sys

import flows.cluster  # noqa: F401 (so that nothing is left to import once it begins)
from flows.main import Options, execute, prepare
from infra.errors import SluiceError
from infra.progress import PlainDisplay


def ingest(recipe: str, store: str, *overrides: str) -> str:
    """The content of the version that comes of it."""
    prepared = prepare(Options(recipe, overrides, store))
    result = execute(prepared, "ingest", PlainDisplay(), lambda step, session: step.run(session))
    return result.made["ingest pool"][""].content


if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        print(ingest(*sys.argv[1:]))
    except SluiceError as error:
        raise SystemExit(f"error: {error}") from None
