"""The command `race` with its choices; what it says of itself stands in flows.cli."""

import sys
from typing import Annotated

from cyclopts import Parameter

from flows import environment
from flows.cli import guarded


def race(
    *,
    recipes: Annotated[
        tuple[str, ...],
        Parameter(name="--recipes", negative=(), consume_multiple=True, show_default=False),
    ] = (),
    budget: Annotated[str | None, Parameter(name="--budget")] = None,
    seeds: Annotated[int | None, Parameter(name="--seeds")] = None,
    race: Annotated[str | None, Parameter(name="--race")] = None,
    overrides: Annotated[
        tuple[str, ...], Parameter(name="--set", negative=(), show_default=False)
    ] = (),
    store: Annotated[str | None, Parameter(name="--store")] = None,
    plan: Annotated[bool, Parameter(name="--plan", negative=(), show_default=False)] = False,
) -> None:
    """Try recipes against each other on one small model.

    Parameters
    ----------
    recipes
        Recipes that share their trusted and evaluation splits: files, or names of flows/recipes.
    budget
        Samples seen by each training run, repeats included: 64000, 64k, 1.5M.
    seeds
        Training runs of each recipe.
    race
        A YAML file with what is alike and, perhaps, entrants; or a name of flows/race.
    overrides
        One change to every recipe: path.to.key=value; to the race: race.path.to.key=value.
    store
        Where versions live: a folder or a URL such as s3://bucket/store.
    plan
        Only tell what would run, what is there, how long and how large; write nothing.
    """

    def action() -> None:
        from flows.race import main as races

        options = races.RaceOptions(recipes, race, budget, seeds, overrides, store)
        if plan:
            print(races.plan(options), flush=True)
            return
        try:
            races.run(options)
        finally:
            environment.quiet_exit()
        if not sys.stdout.isatty():
            print(f"report: {races.page(races.prepare(options))}", flush=True)

    guarded(action)
