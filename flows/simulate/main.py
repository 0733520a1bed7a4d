"""From logs and a cluster to a forecast, and its text."""

from collections.abc import Sequence

from flows.simulate.calibration import read_log
from flows.simulate.cluster import load_cluster, this_machine
from flows.simulate.forecast import Forecast, forecast
from flows.simulate.laws import fit
from flows.simulate.text import forecast_text
from infra.errors import SluiceError


def simulated(
    logs: Sequence[str], rows: float, cluster: str | None, rows_a_shard: float | None = None
) -> tuple[Forecast, str]:
    """What a run of the recipe of these logs would take over so many rows. cluster: a file."""
    if not logs:
        raise SluiceError(
            "a forecast needs the log of a run", "say --log FILE; --set run.events=FILE writes one"
        )
    if not (rows >= 1 and (rows_a_shard is None or rows_a_shard >= 1)):
        raise SluiceError("a pool and a shard have a row at least", "say --rows 5.85e9")
    runs = [read_log(path) for path in logs]
    machines = load_cluster(cluster) if cluster else this_machine(max(run.workers for run in runs))
    found = forecast(fit(runs), machines, rows, rows_a_shard)
    return found, forecast_text(found, any(group.price for group in machines.groups))
