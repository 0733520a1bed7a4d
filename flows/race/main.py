"""A race from the command line's options to its table; nothing heavy is imported here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from flows.main import Result, check_store, run_steps, store_url
from flows.origin import Origin
from flows.race.settings import labels, load_entrants, load_race, split_overrides
from flows.race.steps import FLOW, Race
from flows.recipe import load_recipe
from flows.step import Session, Step, closure
from infra.artifacts import Artifact
from infra.errors import SluiceError
from infra.filesystem import join
from infra.progress import Display

PAGE = "report/index.html"


@dataclass(frozen=True)
class RaceOptions:
    """What a user may say of a race. overrides: of every recipe, and with `race.` of the race."""

    recipes: tuple[str, ...]
    race: str | None = None
    budget: str | None = None
    seeds: int | None = None
    overrides: tuple[str, ...] = ()
    store: str | None = None


def prepare(options: RaceOptions) -> Race:
    """Load and validate all recipes and the race, and string the steps together."""
    of_recipes, of_race = split_overrides(options.overrides)
    entrants = load_entrants(options.race, of_recipes)
    if not (options.recipes or entrants):
        raise SluiceError("a race needs recipes", "give --recipes a.yaml b.yaml")
    settings = load_race(options.race, options.budget, options.seeds, of_race)
    named = zip(labels(options.recipes), options.recipes, strict=True)
    recipes = {label: load_recipe(path, of_recipes) for label, path in named}
    if twice := recipes.keys() & entrants.keys():
        raise SluiceError(f"the race has two entrants {min(twice)!r}", "rename one")
    return Race(entrants | recipes, settings, store_url(options.store))


def execute(
    race: Race,
    display: Display,
    run_step: Callable[[Step, Session], Mapping[str, Artifact]],
) -> Result:
    """Run all steps of a race, each through `run_step`; then write its page."""
    origin = Origin(store=race.store, recipes=dict(race.recipes), race=race.settings)
    result = run_steps(origin, FLOW, closure(race.steps, (FLOW,)), display, run_step)
    from flows.race.page import write_page

    return replace(result, report=write_page(race.table.url))


def plan(options: RaceOptions) -> str:
    """What a race would run, as a table to print; nothing is written."""
    from flows.race.plan import plan as show_plan

    return show_plan(prepare(options))


def run(options: RaceOptions) -> None:
    """Run a race as a Prefect flow; wrong settings or a wrong store fail before Prefect starts."""
    check_store(prepare(options).store)
    from flows.prefect_flows import race

    race(
        list(options.recipes), options.race, options.budget, options.seeds,
        list(options.overrides), options.store,
    )  # fmt: skip


def page(race: Race) -> str:
    """Where the page lies, or will."""
    return join(race.table.url, PAGE)
