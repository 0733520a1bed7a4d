"""`prefect run race --plan`: what would run, what is there, and what it would cost."""

from collections.abc import Iterator
from dataclasses import replace

from flows.plan import Estimate, Line, line_of, show
from flows.race.steps import FLOW, POOL, Race
from flows.step import closure


def plan(race: Race) -> str:
    """The plan of a race, as a table to print; nothing is written."""
    title = f"race of {', '.join(race.recipes)} at {race.settings.samples_seen:,} samples seen"
    return show(title, race.store, list(_lines(race))) + "\nnothing was written"


def _lines(race: Race) -> Iterator[Line]:
    """A line for each step. Recipes of one pool share what was measured on it."""
    estimates: dict[str, Estimate] = {}
    for step in closure(race.steps, (FLOW,)):
        recipe, like = race.origins[step.name]
        pipeline = race.pipelines[recipe]
        pool = pipeline.steps[POOL].draft.url
        if pool not in estimates:
            estimates[pool] = Estimate(race.recipes[recipe], race.store, pipeline.steps)
        yield replace(line_of(replace(step, name=like), estimates[pool]), step=step.name)
