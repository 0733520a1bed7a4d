"""The Prefect flows: one per target, whose task runs are the steps of the recipe; and the upkeep.

Prefect schedules and shows; it caches nothing of ours, because the store is the truth.
"""

import atexit
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from prefect import Flow, State, flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun
from prefect.runtime import deployment
from prefect.states import Failed

from flows.main import Options, Result, execute, index_dataset, prepare, store_url
from flows.race import main as races
from flows.recipe import load_recipe
from flows.step import Session, Step
from flows.store import upkeep
from flows.takedown import main as takedowns
from infra.artifacts import Artifact
from infra.progress import Display, PlainDisplay, display, duration

LINES = 300  # of a text that are put on Prefect's page


def run_step(step: Step, session: Session) -> Mapping[str, Artifact]:
    """Run one step as a Prefect task run of its own name."""

    @task(name=step.name, cache_policy=NO_CACHE)
    def body() -> Mapping[str, Artifact]:
        return step.run(session)

    return body()


def run_target(
    target: str, recipe: str | None, overrides: list[str] | None, store: str | None
) -> Result:
    """The body of every flow: steps as tasks, then the report as a link."""
    shown = _display()
    result = execute(
        prepare(Options(recipe, tuple(overrides or ()), store)), target, shown, run_step
    )
    return tell(result, shown)


def tell(result: Result, shown: Display) -> Result:
    """Say where a run's results are, to the terminal and to Prefect's page of the run."""
    shown.say(f"{result.target}: done in {duration(result.seconds)}, store {result.store}")
    if result.report:
        link = result.report if "://" in result.report else f"file://{result.report}"
        if deployment.id or sys.stdout.isatty():  # else it goes to whoever reads our output
            shown.say(f"report: {result.report}")
        create_link_artifact(link=link, key="report", link_text="Report of this run")
    create_markdown_artifact(result.markdown(), key="summary")
    return result


def _display() -> Display:
    """The terminal for a person; the run's log where a deployment started us."""
    _begun.set()
    end_server_with_us()
    return PlainDisplay(get_run_logger().info) if deployment.id else display()


def end_server_with_us() -> None:
    """See that the server which Prefect starts for a run without one ends with this process.

    Prefect ends it when all is well; after SIGKILL it would stay for good. Somebody has to see
    that: a shell whose input ends with us.
    """
    loaded: Any = sys.modules.get("prefect.server.api.server")  # where Prefect has started one
    servers: Any = getattr(loaded, "SubprocessASGIServer", None)  # None while that is loaded
    for server in list(servers._instances.values()) if servers else ():
        if server.server_process and server.server_process.pid not in _watched:
            pid = server.server_process.pid
            watch = subprocess.Popen(
                ["/bin/sh", "-c", 'cat >/dev/null; kill "$0"', str(pid)], stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            _watched[pid] = watch
            atexit.register(watch.kill)  # before Prefect ends the server itself


def _watch_for_server() -> None:
    """It is there some seconds before the flow begins."""
    until = time.monotonic() + 300
    while not _begun.wait(0.05) and time.monotonic() < until:
        end_server_with_us()


_watched: dict[int, subprocess.Popen[bytes]] = {}  # by the server's process
_begun = threading.Event()
threading.Thread(target=_watch_for_server, daemon=True).start()


def stop_jobs(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """After a cancellation that came to its worker: end the jobs that the run waited for.

    A run that crashed leaves them at work: its retry attaches to them.
    """
    from flows.cluster import release

    given = {name: value for name, value in flow_run.parameters.items() if value is not None}
    if flow.name == "race":
        race = races.prepare(races.RaceOptions(**given))
        where, store = race.recipes[race.first].run, race.store
    else:
        where = load_recipe(given.get("recipe"), given.get("overrides", ())).run
        store = store_url(given.get("store"))
    if where.takes_jobs:
        release(where.address, store, str(flow_run.id))


@flow(name="curate-and-pretrain", on_cancellation=[stop_jobs])
def curate_and_pretrain(
    recipe: str | None = None, overrides: list[str] | None = None, store: str | None = None
) -> None:
    """Raw image-text shards to a curated version, an index, encoders and a report."""
    run_target("curate-and-pretrain", recipe, overrides, store)


@flow(name="ingest", on_cancellation=[stop_jobs])
def ingest(
    recipe: str | None = None, overrides: list[str] | None = None, store: str | None = None
) -> None:
    """Tables of URLs, tars, Parquet and image folders to dataset versions."""
    run_target("ingest", recipe, overrides, store)


@flow(name="curate", on_cancellation=[stop_jobs])
def curate(
    recipe: str | None = None, overrides: list[str] | None = None, store: str | None = None
) -> None:
    """Score, filter and deduplicate a dataset version."""
    run_target("curate", recipe, overrides, store)


@flow(name="index", on_cancellation=[stop_jobs])
def index(
    recipe: str | None = None,
    overrides: list[str] | None = None,
    store: str | None = None,
    dataset: str | None = None,
) -> None:
    """Make the curated version searchable, or the one that is named."""
    if dataset is None:
        run_target("index", recipe, overrides, store)
        return
    shown, options = _display(), Options(recipe, tuple(overrides or ()), store)
    tell(index_dataset(options, dataset, shown, run_step), shown)


@flow(name="synthesize", on_cancellation=[stop_jobs])
def synthesize(
    recipe: str | None = None, overrides: list[str] | None = None, store: str | None = None
) -> None:
    """Draw fractal images as a dataset version."""
    run_target("synthesize", recipe, overrides, store)


@flow(name="pretrain", on_cancellation=[stop_jobs])
def pretrain(
    recipe: str | None = None, overrides: list[str] | None = None, store: str | None = None
) -> None:
    """Train the recipe's encoders."""
    run_target("pretrain", recipe, overrides, store)


@flow(name="evaluate", on_cancellation=[stop_jobs])
def evaluate(
    recipe: str | None = None, overrides: list[str] | None = None, store: str | None = None
) -> None:
    """Evaluate the encoders against baselines."""
    run_target("evaluate", recipe, overrides, store)


@flow(name="race", on_cancellation=[stop_jobs])
def race(
    recipes: list[str],
    race: str | None = None,
    budget: str | None = None,
    seeds: int | None = None,
    overrides: list[str] | None = None,
    store: str | None = None,
) -> None:
    """Try recipes against each other on one small model."""
    shown = _display()
    options = races.RaceOptions(tuple(recipes), race, budget, seeds, tuple(overrides or ()), store)
    tell(races.execute(races.prepare(options), shown, run_step), shown)


@flow(name="takedown")
def takedown(
    uids: str | None = None,
    urls: str | None = None,
    domains: str | None = None,
    hashes: str | None = None,
    reason: str = "",
    recipe: str | None = None,
    overrides: list[str] | None = None,
    store: str | None = None,
) -> str:
    """Take samples down, in every version, index and future ingest."""
    asked = takedowns.TakedownOptions(uids, urls, domains, hashes, reason)
    where = takedowns.where_to_run(recipe, overrides or ())

    @task(name="takedown", cache_policy=NO_CACHE)
    def body(shown: Display) -> str:
        return takedowns.run(store_url(store), asked, where, shown)

    shown = _display()
    return tell_text(body(shown), "takedown", shown)


@flow(name="gc")
def gc(
    remove: bool = False,
    older_than: str = "30d",
    unfinished: str = "7d",
    derived: bool = False,
    runs: bool = False,
    store: str | None = None,
) -> str:
    """Tell, and with `remove` take away, what of a store nobody needs any more."""
    kept = upkeep.retention(older_than, unfinished, derived, runs)

    @task(name="gc", cache_policy=NO_CACHE)
    def body(shown: Display) -> str:
        return upkeep.gc(store, kept, shown, remove)[1]

    shown = _display()
    return tell_text(body(shown), "gc", shown)


@flow(name="verify")
def verify(
    names: list[str] | None = None,
    quick: bool = False,
    recipe: str | None = None,
    overrides: list[str] | None = None,
    store: str | None = None,
) -> str | State:
    """Tell what of a store is not as it was committed; where something is not, the run failed."""
    options = Options(recipe, tuple(overrides or ()), store)

    @task(name="verify", cache_policy=NO_CACHE)
    def body(shown: Display) -> upkeep.Verified:
        return upkeep.verify(options, names or (), shown, quick)

    shown = _display()
    found = body(shown)
    told = tell_text(found.text, "verify", shown)
    return Failed(message="\n".join(_cut(told))) if found.damage else told


def tell_text(text: str, key: str, shown: Display) -> str:
    """Put what was done on Prefect's page of the run, and into its log; the text as it is.

    Lines are indented, which nothing in them can end: strangers name files and write reasons.
    """
    lines = _cut(text)
    if deployment.id:  # else it goes to whoever reads our output
        shown.say("\n".join(lines))
    create_markdown_artifact("\n".join(f"    {line}" for line in lines), key=key)
    return text


def _cut(text: str) -> list[str]:
    """The first lines of a text, and how many more there are."""
    lines = text.splitlines()
    rest = len(lines) - LINES
    return [*lines[:LINES], f"and {rest} lines more"] if rest > 0 else lines


FLOWS: Mapping[str, Flow[..., None]] = {
    each.name: each
    for each in (curate_and_pretrain, ingest, curate, index, synthesize, pretrain, evaluate)
}
