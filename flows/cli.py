"""The command line: `python -m flows NAME`, and `prefect run NAME` through the plugin.

Importing this module stays cheap, because help is answered from it: what a command needs is
imported when the command runs.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Group, Parameter

from flows import environment
from flows.cli_others import register
from indexes.service.choices import ServeChoices
from infra.errors import SluiceError

if TYPE_CHECKING:
    from flows.main import Options

FAILED, INTERRUPTED = 1, 130

app = App(
    help="""Curate image-text data and pretrain encoders on it, as a recipe says.

    Finished work is never done twice: stop a run whenever you like, and run the same command
    again to go on. With `--plan` it only tells what it would do.
    """,
    help_flags=["--help"],
    version_flags=[],
    help_format="markdown",
)
app["--help"].group = ""  # its line would only push the flows down

RUN = Group("Flows", sort_key=-2)
LOOK = Group("Results", sort_key=-1)
STORE = Group("Store", sort_key=0)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Choices:
    """What every command takes."""

    recipe: Annotated[str | None, Parameter(name="--recipe")] = None
    """The recipe: a YAML file, or a name of flows/recipes. Without it: the demo."""

    overrides: Annotated[
        tuple[str, ...], Parameter(name="--set", negative=(), show_default=False)
    ] = ()
    """One change to the recipe: path.to.key=value. Repeatable."""

    store: Annotated[str | None, Parameter(name="--store")] = None
    """Where versions live: a folder or a URL such as s3://bucket/store."""

    def options(self) -> "Options":
        from flows.main import Options

        return Options(self.recipe, self.overrides, self.store)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunChoices(Choices):
    """What the commands that compute take on top."""

    plan: Annotated[bool, Parameter(name="--plan", negative=(), show_default=False)] = False
    """Only tell what would run, what is there, how long and how large; write nothing."""


def guarded(action: Callable[[], None]) -> None:
    """Do what a command does: a failure is one message and an exit code, no traceback."""
    environment.prepare()
    try:
        action()
    except SluiceError as error:
        _stop(f"error: {error}", FAILED)
    except KeyboardInterrupt:
        _stop("stopped: run the same command again to go on where it was", INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output (head, less) is gone; the rest must not raise at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stop(message: str, code: int) -> None:
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    raise SystemExit(code)


def _run(
    target: str,
    choices: RunChoices | None,
    sources: tuple[str, ...] = (),
    retry_failed: str | None = None,
) -> None:
    chosen = choices or RunChoices()

    def action() -> None:
        options = chosen.options().reading(sources, retry_failed)
        if chosen.plan:
            from flows.plan import plan

            print(plan(options, target), flush=True)
            return
        from flows.main import run

        try:
            run(options, target)
        finally:
            environment.quiet_exit()
        if target == "curate-and-pretrain" and not sys.stdout.isatty():
            print(f"report: {_report(chosen.options())}", flush=True)

    guarded(action)


def _report(options: "Options") -> str:
    """Where the report of a finished run lies: for the program that reads our output.

    A person at a terminal has been told by the progress display.
    """
    from flows.main import prepare
    from infra.filesystem import join

    version = prepare(options).pipeline.steps["curated version"].draft.url
    return join(version, "report", "index.html")


@app.command(name="curate-and-pretrain", group=RUN, sort_key=0)
def curate_and_pretrain(choices: RunChoices | None = None) -> None:
    """All of it: raw shards in; data, encoders, report out.

    Example, with two changes to the recipe:

        prefect run curate-and-pretrain --set run.workers=4 --set curate.dedup.near.0.threshold=0.97
    """
    _run("curate-and-pretrain", choices)


@app.command(group=RUN, sort_key=1)
def ingest(
    *,
    source: Annotated[
        tuple[str, ...], Parameter(name="--source", negative=(), show_default=False)
    ] = (),
    retry_failed: Annotated[str | None, Parameter(name="--retry-failed")] = None,
    choices: RunChoices | None = None,
) -> None:
    """Make dataset versions of URLs, tars and images.

    Examples: a table of URLs; then what failed of it and may come the second time:

        prefect run ingest --source 's3://bucket/part-*.parquet' --store /data/store
        prefect run ingest --retry-failed latest --store /data/store

    Parameters
    ----------
    source
        Tables of URLs, tars, Parquet, Arrow or images: a file, a folder or a pattern. Repeatable.
    retry_failed
        A version of the pool (or `latest`): a new one is made in which its transient failures
        are fetched again, and all else is kept where it is.
    """
    _run("ingest", choices, source, retry_failed)


@app.command(group=RUN, sort_key=2)
def curate(choices: RunChoices | None = None) -> None:
    """Score, filter and deduplicate what was ingested.

    Example, to see what a recipe would still have to do:

        prefect run curate --recipe your-shards --plan
    """
    _run("curate", choices)


@app.command(group=RUN, sort_key=3)
def index(
    *,
    dataset: Annotated[str | None, Parameter(name="--dataset")] = None,
    choices: RunChoices | None = None,
) -> None:
    """Make the curated version, or another, searchable.

    Examples, after `curate`; which kind it would be, and why; and of a version by name, in a
    gigabyte of memory:

        prefect run index --recipe your-shards
        prefect run index --recipe your-shards --plan
        prefect run index --dataset pool@0123456789abcdef --set index.memory=1GiB

    Parameters
    ----------
    dataset
        A version to index, NAME or NAME@VERSION, and nothing else is run.
    """
    if dataset is None:
        _run("index", choices)
        return
    chosen = choices or RunChoices()

    def action() -> None:
        if chosen.plan:
            from flows.plan import plan_dataset

            print(plan_dataset(chosen.options(), dataset), flush=True)
            return
        from flows.main import run_index

        try:
            run_index(chosen.options(), dataset)
        finally:
            environment.quiet_exit()

    guarded(action)


@app.command(group=RUN, sort_key=4)
def synthesize(choices: RunChoices | None = None) -> None:
    """Draw fractal images as a second source.

    Example, with twice as many systems:

        prefect run synthesize --set synthesize.fractals.systems=50
    """
    _run("synthesize", choices)


@app.command(group=RUN, sort_key=5)
def pretrain(choices: RunChoices | None = None) -> None:
    """Train the recipe's encoders.

    Example, with longer training of one of them:

        prefect run pretrain --set pretrain.dino.train.steps=1000
    """
    _run("pretrain", choices)


@app.command(group=RUN, sort_key=6)
def evaluate(choices: RunChoices | None = None) -> None:
    """Measure the encoders against baselines.

    Example, with the training it still needs:

        prefect run evaluate
    """
    _run("evaluate", choices)


@app.command(group=LOOK, sort_key=8)
def report(choices: Choices | None = None) -> None:
    """Write the report again from what the store holds.

    Example, for a store elsewhere:

        prefect run report --store s3://bucket/store
    """

    def action() -> None:
        from flows.main import report

        print(report((choices or Choices()).options()), flush=True)

    guarded(action)


@app.command(group=LOOK, sort_key=9)
def explain(
    uid: str,
    /,
    *,
    dataset: Annotated[str, Parameter(name="--dataset")] = "curated",
    choices: Choices | None = None,
) -> None:
    """Tell why a sample was kept or dropped.

    Example, for a uid from the report or from a search:

        prefect run explain 0123456789abcdef0123456789abcdef

    Parameters
    ----------
    uid
        The sample: 32 hex characters.
    dataset
        The dataset to ask, as NAME or NAME@VERSION.
    """

    def action() -> None:
        from flows.main import explain

        print(explain((choices or Choices()).options(), uid, dataset), flush=True)

    guarded(action)


@app.command(group=LOOK, sort_key=11)
def serve(*names: str, serving: ServeChoices | None = None, choices: Choices | None = None) -> None:
    """Serve indexes over HTTP, with a page to explore them.

    Example, of the newest version, for this machine; the page is at http://127.0.0.1:8000:

        prefect run serve curated

    Parameters
    ----------
    names
        NAME follows the newest version of a dataset; NAME@VERSION stays at that one.
    """

    def action() -> None:
        from flows.serve import serve

        serve((choices or Choices()).options(), names, serving or ServeChoices())

    guarded(action)


register(app, RUN, LOOK, STORE)
