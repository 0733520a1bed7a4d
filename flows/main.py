"""What the command line and the Prefect flows both do: load a recipe, run it up to a target.

Nothing heavy is imported here: `plan`, `report` and `explain` must answer at once.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from curation.fetch.observed import STATISTICS
from curation.sources.detect import detect
from flows.indexing import version_steps
from flows.origin import Origin
from flows.pipeline import Pipeline
from flows.recipe import Recipe, load_recipe
from flows.step import LAUNCHERS, Session, Step, closure
from indexes.settings import IndexSettings
from infra import artifacts, cache, dataset, filesystem
from infra.artifacts import Artifact
from infra.errors import SluiceError
from infra.progress import Display, duration
from infra.runner import make_runner
from infra.secrets import secret_in

NAMED = "your-shards"  # the recipe of sources named on the command line
STORE_VARIABLE = "SLUICE_STORE"
DEFAULT_STORE = "store"
TARGETS: Mapping[str, tuple[str, ...]] = {
    "ingest": ("ingest",),
    "curate": ("curate",),
    "index": ("index",),
    "synthesize": ("synthesize",),
    "pretrain": ("pretrain",),
    "evaluate": ("evaluate",),
    "curate-and-pretrain": (
        "ingest", "curate", "index", "synthesize", "pretrain", "evaluate",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What a user may say on the command line, for every flow alike."""

    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    store: str | None = None

    def reading(self, sources: Sequence[str] = (), retry_failed: str | None = None) -> "Options":
        """These options with the pool named: locations of whatever kind, or a version to retry.

        The recipe then is `your-shards` unless another one is given, and only the pool is read.
        """
        if not (sources or retry_failed):
            return self
        if sources and retry_failed:
            raise SluiceError(
                "--source and --retry-failed exclude each other",
                "first ingest the source; then retry what failed of that version",
            )
        found = [detect(source).model_dump(exclude_defaults=True) for source in sources]
        data = {
            "demo": None, "pool": found, "trusted": [], "evaluation": [], "canaries": None,
            "retry_failed": retry_failed,
        }  # fmt: skip
        named = [f"data.{key}={json.dumps(value)}" for key, value in data.items()]
        return Options(self.recipe or NAMED, (*named, *self.overrides), self.store)


@dataclass(frozen=True)
class StepTiming:
    """How long a step took in this run, or in the run that left it in the store."""

    name: str
    seconds: float
    cpu_seconds: float
    rows: int
    from_store: bool


@dataclass(frozen=True)
class Result:
    """What a run made: artifacts by step and draft, timings, and where the report lies."""

    store: str
    target: str
    made: Mapping[str, Mapping[str, Artifact]]
    timings: Sequence[StepTiming]
    seconds: float
    report: str | None = None

    def markdown(self) -> str:
        """A table of the steps, for Prefect's page of the run."""
        lines = ["| step | rows | time |", "|---|---|---|"]
        for timing in self.timings:
            took = "from the store" if timing.from_store else duration(timing.seconds)
            lines.append(f"| {timing.name} | {timing.rows} | {took} |")
        return "\n".join(lines)


@dataclass(frozen=True)
class Prepared:
    """A validated recipe and the steps it stands for in one store."""

    recipe: Recipe
    store: str
    pipeline: Pipeline = field(repr=False)


@dataclass(frozen=True)
class PreparedIndex:
    """A dataset version to be indexed, and the steps of that."""

    recipe: Recipe
    store: str
    dataset: dataset.Dataset
    settings: IndexSettings
    steps: Sequence[Step]


def store_url(store: str | None) -> str:
    """The store to use: the option, else $SLUICE_STORE, else `store/` here; absolute if local."""
    url = store or os.environ.get(STORE_VARIABLE) or DEFAULT_STORE
    if url.rstrip("/").endswith(":"):
        raise SluiceError(f"the store {url} names no bucket", "say SCHEME://BUCKET/FOLDER")
    if secret := secret_in(url):
        raise SluiceError(
            f"the store {url} holds {secret}", "put credentials into the environment instead"
        )
    return str(Path(url).absolute()) if "://" not in url else url.rstrip("/")


def prepare(options: Options) -> Prepared:
    """Load and validate the recipe, and string its steps together; nothing is written."""
    recipe = load_recipe(options.recipe, options.overrides)
    store = store_url(options.store)
    return Prepared(recipe, store, Pipeline(recipe, store))


def prepare_index(options: Options, name: str) -> PreparedIndex:
    """The steps that index a version, NAME or NAME@VERSION, which is there; nothing is written."""
    recipe, store = load_recipe(options.recipe, options.overrides), store_url(options.store)
    return PreparedIndex(recipe, store, *version_steps(recipe, store, name))


def check_store(store: str) -> None:
    """Fail now, in one line, where the store cannot be written, or not safely by two at once."""
    filesystem.check_writable(store)


def execute(
    prepared: Prepared,
    target: str,
    display: Display,
    run_step: Callable[[Step, Session], Mapping[str, Artifact]],
) -> Result:
    """Run the steps `target` needs, each through `run_step`; then write the report."""
    steps = closure(prepared.pipeline.steps, TARGETS[target])
    origin = Origin(store=prepared.store, recipes={"": prepared.recipe})
    result = run_steps(origin, target, steps, display, run_step)
    if target != "curate-and-pretrain":
        return result
    return replace(result, report=write_report(prepared, result.timings))


def index_dataset(
    options: Options,
    name: str,
    display: Display,
    run_step: Callable[[Step, Session], Mapping[str, Artifact]],
) -> Result:
    """Index any version, NAME or NAME@VERSION, as the recipe's `index` says, and nothing else."""
    asked = prepare_index(options, name)
    version = f"{name.partition('@')[0]}@{asked.dataset.artifact.digest}"
    origin = Origin(store=asked.store, recipes={"": asked.recipe}, dataset=version)
    return run_steps(origin, "index", asked.steps, display, run_step)


def run_steps(
    origin: Origin,
    target: str,
    steps: Sequence[Step],
    display: Display,
    run_step: Callable[[Step, Session], Mapping[str, Artifact]],
) -> Result:
    """Run steps of an origin in order, each through `run_step`, where its first recipe says."""
    start, store, where = time.monotonic(), origin.store, origin.where
    check_store(store)
    made: dict[str, Mapping[str, Artifact]] = {}
    timings: list[StepTiming] = []
    executor = "inline" if where.takes_jobs else where.executor  # a job has workers of its own
    runner = make_runner(executor, where.workers, where.address)
    from flows.watch import watched

    watch = watched(where, store, target, steps, display)
    with watch as display, cache.used(where.cache), runner, contextlib.ExitStack() as lent:
        lent.callback(close_training)  # before Ray itself goes
        session = Session(runner, display, LAUNCHERS[executor], where.address)
        if where.takes_jobs:
            from flows.cluster import as_jobs

            steps = as_jobs(steps, origin, display)
        trainings = {step.name for step in steps if step.trains}
        for step in steps:
            stored = step.stored
            if step.trains and not stored:
                runner.rest()
            begin = time.monotonic()
            made[step.name] = run_step(step, session)
            timings.append(timing_of(step.name, made[step.name], stored, time.monotonic() - begin))
            if stored:
                display.say(f"{step.name}: already in the store")
            trainings.discard(step.name)
            if not trainings:
                close_training()  # its 2 GB are wanted elsewhere
            if step.publishes:
                (artifact,) = made[step.name].values()
                dataset.publish(store, step.publishes, artifact)
                if not stored:
                    tell_funnel(artifact, display)
                if not stored and filesystem.is_folder(artifact.path(STATISTICS)):
                    display.say(f"crawl report: {write_crawl_report(artifact.url)}")
    return Result(store, target, made, timings, time.monotonic() - start)


def tell_funnel(artifact: Artifact, display: Display) -> None:
    """Say what of a new version's funnel differs from those of the last versions."""
    from flows.store.alert import tell_alerts

    for text in tell_alerts(artifact):
        display.say(text)


def write_crawl_report(url: str) -> str:
    """Write what came of the URLs of the version at `url`; the path of the page."""
    from flows.report.crawl import write_crawl_report as write

    return write(url)


def close_training() -> None:
    """Send home the training worker that is kept between runs, if one was started."""
    if launch := sys.modules.get("pretrain.launch"):
        launch.close()


def timing_of(name: str, made: Mapping[str, Artifact], stored: bool, seconds: float) -> StepTiming:
    """This run's wall-clock for a step that ran; for a stored one, what it took back then."""
    cpu = sum(artifact.timing().get("cpu_seconds", 0.0) for artifact in made.values())
    rows = max((artifact.totals["rows"] for artifact in made.values()), default=0)
    if stored:
        seconds = sum(artifact.timing().get("seconds", 0.0) for artifact in made.values())
    return StepTiming(name, seconds, cpu, rows, stored)


def write_report(prepared: Prepared, timings: Sequence[StepTiming] | None = None) -> str:
    """Write the report of what is in the store for this recipe; its path."""
    from flows.report import write_report as write
    from flows.reporting import report_context

    if timings is None:
        timings = [
            timing_of(step.name, made, True, 0.0)
            for step in closure(prepared.pipeline.steps, TARGETS["curate-and-pretrain"])
            if (made := stored_artifacts(step))
        ]
    return write(prepared.store, report_context(prepared.pipeline, timings))


def stored_artifacts(step: Step) -> dict[str, Artifact]:
    """The artifacts of a step that are in the store."""
    loaded = {name: artifacts.load(draft.url) for name, draft in step.drafts.items()}
    return {name: artifact for name, artifact in loaded.items() if artifact is not None}


def run_index(options: Options, name: str) -> None:
    """Index a dataset version as a Prefect flow; one that is not there fails before."""
    prepare_index(options, name)
    from flows.prefect_flows import index

    index(options.recipe, list(options.overrides), options.store, name)


def run(options: Options, target: str) -> None:
    """Run a target as a Prefect flow; a wrong recipe or store fails before Prefect starts."""
    check_store(prepare(options).store)
    from flows.prefect_flows import FLOWS

    FLOWS[target](options.recipe, list(options.overrides), options.store)


def report(options: Options) -> str:
    """Write the report again from the store alone, for the recipe's curated version."""
    prepared = prepare(options)
    if not prepared.pipeline.steps["curated version"].stored:
        raise SluiceError(
            f"{prepared.store} holds no curated version of this recipe",
            "run `prefect run curate-and-pretrain` with the same --recipe, --set and --store",
        )
    return write_report(prepared)


def explain(options: Options, uid: str, dataset_name: str = "curated") -> str:
    """Why a sample was kept or dropped, in words."""
    from curation.explain import explain as explain_uid
    from curation.explain import format_explanation

    return format_explanation(explain_uid(store_url(options.store), uid, dataset_name))
