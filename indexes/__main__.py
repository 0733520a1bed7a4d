"""The command line of the indexes: `python -m indexes serve NAME@VERSION`."""

import os
from typing import Annotated

from cyclopts import Parameter

from indexes.service.choices import ServeChoices
from infra.command import command_line, run_command

app = command_line("python -m indexes", "Searchable indexes of dataset versions.")


@app.command
def serve(
    *names: str,
    store: Annotated[str | None, Parameter(name="--store")] = None,
    choices: ServeChoices | None = None,
) -> None:
    """Serve indexes over HTTP: searches, pictures, subsets, a page to explore them.

    Examples: the newest version of `curated` and an older one beside it, for this machine; and
    for a network, with a key:

        python -m indexes serve curated curated@0123456789abcdef --store /data/store
        SLUICE_API_KEY=... python -m indexes serve curated --store s3://bucket/store --host 0.0.0.0

    The page is at `/`, the calls are listed at `/openapi.json`. A search by vector:

        curl -H 'content-type: application/json' -d '{"uid": "UID", "k": 5}'
        http://127.0.0.1:8000/api/indexes/curated/search

    Parameters
    ----------
    names
        NAME follows the newest version of a dataset; NAME@VERSION stays at that one.
    store
        Where versions live: a folder or a URL; without it SLUICE_STORE, else `store/` here.
    """
    from indexes.service.server import serve as run

    place = store or os.environ.get("SLUICE_STORE") or "store"
    run((choices or ServeChoices()).settings(names, place))


if __name__ == "__main__":
    run_command(app)
