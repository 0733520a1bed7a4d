"""Settings of a race: what is trained on each recipe's data, how long, and how it is judged."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from curation.measures.settings import MeasureSettings
from flows.recipe import Recipe, lay
from flows.settings import has_place, load_yaml, merge, override, validate
from infra.errors import SluiceError
from pretrain.evaluate_settings import CLASSES, EvaluateSettings
from pretrain.settings import TrainSettings

DEFAULT = Path(__file__).parent / "race.yaml"
ENTRANTS = "entrants"  # of a race's file: recipes, each laid over another
PREFIX = "race."  # of a --set that is about the race and not about the recipes
UNITS = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}
_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgGbB]?)")


def count(value: Any) -> Any:
    """ "32k" -> 32000, "1.5M" -> 1500000; what is no text is left to the model."""
    if not isinstance(value, str):
        return value
    found = _COUNT.fullmatch(value.strip().replace("_", "").replace(",", ""))
    if found is None:
        raise ValueError(f"{value!r} is no number of samples; write 64000, 64k or 1.5M")
    unit = {"K": "k", "m": "M", "g": "G", "b": "G", "B": "G"}.get(found[2], found[2])
    number = float(found[1]) * UNITS[unit]
    if number != int(number):
        raise ValueError(f"{value!r} is no whole number of samples")
    return int(number)


class RaceSettings(BaseModel):
    """One proxy model, one budget and one examination for every recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: TrainSettings = Field(description="without steps and seed: budget and seeds say them")
    budget: Annotated[int, BeforeValidator(count)] = Field(
        32_000, gt=0, description="samples seen by each run, repeats included; 64k, 1.5M"
    )
    seeds: int = Field(3, ge=1, le=100, description="runs of each recipe, of these seeds from 0")
    raw: bool = Field(
        True, description="also train on the raw pool, the baseline; else the first recipe is"
    )
    evaluate: EvaluateSettings = EvaluateSettings.model_validate({})
    measures: MeasureSettings = MeasureSettings.model_validate({})

    @model_validator(mode="after")
    def _one_budget(self) -> "RaceSettings":
        said = self.train.model_fields_set & {"steps", "seed"}
        if said:
            raise ValueError(
                f"train.{min(said)} is not for a race: `budget` and `seeds` say it for all"
            )
        if self.budget < self.train.batch:
            raise ValueError(f"budget {self.budget} is less than one batch, {self.train.batch}")
        if self.evaluate.compare:
            raise ValueError("evaluate.compare is not for a race: every recipe is compared")
        if other := [task for task in self.evaluate.tasks if task not in CLASSES]:
            raise ValueError(
                f"evaluate.tasks has {other[0]}, a race is of tasks that name a class: "
                f"{', '.join(CLASSES)}"
            )
        return self

    @property
    def steps(self) -> int:
        """Whole batches within the budget."""
        return self.budget // self.train.batch

    @property
    def samples_seen(self) -> int:
        return self.steps * self.train.batch

    def training(self, seed: int) -> TrainSettings:
        """The training run of one seed."""
        return self.train.model_copy(update={"steps": self.steps, "seed": seed})


def load_race(
    path: str | None, budget: str | None, seeds: int | None, overrides: Iterable[str]
) -> RaceSettings:
    """The settings of a file laid over the default ones, with what the command line says on top.

    overrides: "path.to.key=value", without the prefix.
    """
    value = load_yaml(DEFAULT)
    if path is not None:
        above = load_yaml(find_race(path))
        above.pop(ENTRANTS, None)
        value = merge(value, above)
    value |= {} if budget is None else {"budget": budget}
    value |= {} if seeds is None else {"seeds": seeds}
    return validate(RaceSettings, override(value, overrides), path or "the race")


def find_race(path: str) -> Path:
    """A file of that path, else that of a name in flows/race/."""
    own = DEFAULT.parent / f"{path}.yaml"
    return own if own.is_file() and not Path(path).is_file() else Path(path)


def load_entrants(path: str | None, overrides: Iterable[str]) -> dict[str, Recipe]:
    """The recipes that stand in a race's file under `entrants`, by label; each `extends` one.

    overrides: each changes those entrants that have its place, so that one may be about the
    generated pools alone. Raises SluiceError for one that no entrant has.
    """
    if path is None:
        return {}
    every, file = tuple(overrides), find_race(path)
    entrants = load_yaml(file).get(ENTRANTS) or {}
    if not isinstance(entrants, dict) or not all(isinstance(e, dict) for e in entrants.values()):
        raise SluiceError(f"{ENTRANTS} of {path} are no recipes", "write LABEL: {extends: RECIPE}")
    laid = {str(label): lay(entry, file.parent) for label, entry in entrants.items()}
    for each in every if laid else ():
        if not any(has_place(value, each) for value in laid.values()):
            raise SluiceError(f"--set {each}: no entrant of {path} has that place", "mend the path")
    return {
        label: validate(
            Recipe, override(value, [each for each in every if has_place(value, each)]), label
        )
        for label, value in laid.items()
    }


def split_overrides(overrides: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The `--set` of the recipes, and those of the race without their prefix."""
    every = tuple(overrides)
    of_race = tuple(each.removeprefix(PREFIX) for each in every if each.startswith(PREFIX))
    return tuple(each for each in every if not each.startswith(PREFIX)), of_race


def labels(paths: Iterable[str]) -> list[str]:
    """A short name for each recipe: its file's, or the whole path where two files share one."""
    given = list(paths)
    if len(set(given)) < len(given):
        twice = next(path for path in given if given.count(path) > 1)
        raise SluiceError(f"--recipes names {twice!r} twice", "name each recipe once")
    names = [Path(path).name.removesuffix(".yaml").removesuffix(".yml") for path in given]
    pairs = zip(names, given, strict=True)
    return [name if names.count(name) == 1 else path for name, path in pairs]
