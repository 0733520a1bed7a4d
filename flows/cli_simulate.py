"""The command `simulate` with its choices; what it says of itself stands in flows.cli_others."""

import json
from typing import Annotated

from cyclopts import Parameter

from flows.cli import guarded


def simulate(
    logs: Annotated[tuple[str, ...], Parameter(name="--log", negative=())],
    *,
    rows: Annotated[float, Parameter(name="--rows")],
    rows_a_shard: Annotated[float | None, Parameter(name="--rows-a-shard")] = None,
    cluster: Annotated[str | None, Parameter(name="--cluster")] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Tell what a run would take at another size on another cluster: time, cost, memory, bytes.

    Parameters
    ----------
    logs
        What a small run of the recipe wrote to `run.events`. Repeatable: three runs, over a pool,
        one of more rows in as many shards, and one of as many rows in more shards, tell what a
        stage takes for a row, for a shard and anyway (`data.rows_per_shard`; a tar is a shard).
    rows
        Of the pool: 5.85e9 is LAION-5B.
    rows_a_shard
        Of the pool. Without: what the cluster's file says, else as in the log of most rows.
    cluster
        The machines, a YAML file; infra/deploy/simulate/cluster.yaml explains it. Without: the
        machine at hand, with the workers of the logs.
    as_json
        The figures as JSON.
    """

    def action() -> None:
        from flows.simulate.main import simulated

        found, text = simulated(logs, rows, cluster, rows_a_shard)
        print(json.dumps(found.to_json(), indent=1) if as_json else text, flush=True)

    guarded(action)
