"""Where the steps of a command come from: enough to string them together anywhere."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from curation.scores.clip import best_precision
from flows.indexing import version_steps
from flows.pipeline import Pipeline
from flows.race.settings import RaceSettings
from flows.recipe import ExecutionSettings, Recipe
from flows.step import Step


class Origin(BaseModel):
    """What steps are strung together from, the same everywhere: on a cluster, or here.

    recipes: one, or those of a race by label. dataset: the version that is indexed, NAME@VERSION,
    where the steps are those of `index --dataset`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    recipes: dict[str, Recipe]
    race: RaceSettings | None = None
    dataset: str | None = None

    @property
    def where(self) -> ExecutionSettings:
        """Where they run: a race where its first recipe says."""
        return next(iter(self.recipes.values())).run

    def steps(self) -> Mapping[str, Step]:
        if self.race is not None:
            from flows.race.steps import Race

            return Race(self.recipes, self.race, self.store).steps
        (recipe,) = self.recipes.values()
        if self.dataset is not None:
            _, _, steps = version_steps(recipe, self.store, self.dataset)
            return {step.name: step for step in steps}
        return Pipeline(recipe, self.store).steps

    def pinned(self) -> "Origin":
        """With what would else be decided by the machine that strings the steps together."""
        recipes = {label: _pinned(recipe) for label, recipe in self.recipes.items()}
        return self.model_copy(update={"recipes": recipes})


def _pinned(recipe: Recipe) -> Recipe:
    if recipe.filter.precision != "auto":
        return recipe
    chosen = recipe.filter.model_copy(update={"precision": best_precision()})
    return recipe.model_copy(update={"filter": chosen})
