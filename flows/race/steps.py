"""The steps of a race: those of every recipe up to its curated version, then one race for all.

recipes -> curated versions, and the raw pool -> one training run a seed -> one evaluation a run
first recipe's CLIP -> vectors of pool and reference -> cells of the pool -> measures of a version
evaluations and measures -> the table of the race

What several recipes ask for alike has one digest, and is one step. Runs and evaluations are known
by what they are made of, not by the recipe's name: two recipes that keep the same share them, and
a recipe or a seed that is added later runs nothing twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from curation import score
from curation.columns import dataset_at
from curation.contamination import shard_items
from curation.measures import cells
from curation.measures.measure import Inputs, MeasuresWork, measures_draft
from flows.pipeline import Pipeline, folder_of
from flows.race.settings import RaceSettings
from flows.race.table import ENTRANT, Entrant, TableWork, table_draft
from flows.recipe import Recipe
from flows.step import Session, Step, sharded
from flows.versions import HOW, is_version, named_version
from infra.artifacts import Artifact
from infra.errors import SluiceError
from infra.stage import Draft, Item
from pretrain import run
from pretrain.data import Source
from pretrain.evaluate import stage as evaluation
from pretrain.mix import Weight

FLOW = "race"
RAW = "raw pool"
CURATED = "curated version"
EMBED, VECTOR = "embed pool", "image"
POOL, TRUSTED, EVALUATION = "ingest pool", "ingest trusted", "ingest evaluation"


@dataclass(frozen=True)
class Part:
    """A dataset version in what an entrant learns from; step: that makes it, if one does."""

    name: str
    url: str
    weight: Weight
    step: str | None


@dataclass(frozen=True)
class Version:
    """What an entrant is trained on: a dataset version, and the step that makes it."""

    label: str
    recipe: str  # whose pool it is of
    draft: Draft
    step: str
    baseline: str | None  # the label of what it is compared with
    mix: Mapping[str, "Part"]  # what is learnt from, by digest


class Race:
    """All steps of a race, by name, in an order in which they could run."""

    def __init__(self, recipes: Mapping[str, Recipe], settings: RaceSettings, store: str) -> None:
        self.recipes, self.settings, self.store = recipes, settings, store
        self.measures = settings.measures
        self.pipelines = {name: Pipeline(recipe, store) for name, recipe in recipes.items()}
        self.first = next(iter(recipes))
        self.steps: dict[str, Step] = {}
        self.origins: dict[str, tuple[str, str]] = {}  # step -> recipe, and what it is like there
        self._names: dict[frozenset[str], str] = {}  # URLs of what a step makes -> its name here
        self._check_splits()
        self._curation()
        self.versions = self._versions()
        self._runs()

    # ---- what recipes make ----

    def _check_splits(self) -> None:
        """Every recipe has the same trusted and the same evaluation split."""
        first, *others = self.pipelines
        for name, pipeline in self.pipelines.items():
            for split in (TRUSTED, EVALUATION):
                if split not in pipeline.steps:
                    raise SluiceError(
                        f"recipe {name!r} has no {split.removeprefix('ingest ')} split",
                        f"a race needs one to judge by: set data.{split.split()[1]} in each recipe",
                    )
        for name in others:
            for split in (TRUSTED, EVALUATION):
                ours, theirs = (self.pipelines[each].steps[split].draft for each in (first, name))
                if ours.spec.digest != theirs.spec.digest:
                    raise SluiceError(
                        f"recipes {first!r} and {name!r} differ in their "
                        f"{split.removeprefix('ingest ')} split",
                        "give all recipes of a race the same data.trusted and data.evaluation",
                    )

    def _curation(self) -> None:
        """The steps up to each curated version; one step for what several recipes share."""
        users: dict[frozenset[str], list[str]] = {}
        wanted: dict[str, list[Step]] = {}
        for name, pipeline in self.pipelines.items():
            wanted[name] = needed(pipeline.steps, (TRUSTED, EVALUATION, CURATED, EMBED))
            for step in wanted[name]:
                users.setdefault(_identity(step), []).append(name)
        for name, steps in wanted.items():
            names: dict[str, str] = {}
            for step in steps:
                names[step.name] = self._join(step, name, users[_identity(step)], names)

    def _join(self, step: Step, recipe: str, users: Sequence[str], names: Mapping[str, str]) -> str:
        """Take a recipe's step over; its name in the race."""
        name = step.name
        if len(users) < len(self.recipes):
            name = f"{step.name} ({', '.join(users)})"
        publishes = None if step.name == CURATED else step.publishes  # `latest` stays
        needs = tuple(names[need] for need in step.needs)
        here = replace(step, name=name, needs=needs, publishes=publishes, flow=FLOW)
        return self._add(here, recipe, step.name).name

    def _add(self, step: Step, recipe: str, like: str) -> Step:
        """Take a step in, unless what it makes is made already; the step that makes it.

        recipe, like: whose step of which name sees the same rows; a plan reckons by it.
        """
        identity = _identity(step)
        if identity not in self._names:
            self._names[identity] = step.name
            self.steps[step.name] = step
            self.origins[step.name] = (recipe, like)
        return self.steps[self._names[identity]]

    def _draft(self, recipe: str, step: str) -> Draft:
        return self.pipelines[recipe].steps[step].draft

    def _here(self, recipe: str, step: str) -> str:
        return self._names[_identity(self.pipelines[recipe].steps[step])]

    # ---- the race ----

    def _versions(self) -> list[Version]:
        """Raw pools first, one for each that there is; then the recipes, in the order given."""
        raw: dict[frozenset[Any], Version] = {}
        mixes = {recipe: self._mix(recipe, POOL) for recipe in self.recipes}
        keys = {recipe: frozenset(mix.items()) for recipe, mix in mixes.items()}
        for recipe, mix in mixes.items() if self.settings.raw else ():
            if keys[recipe] not in raw:
                label = f"{RAW} of {recipe}" if len(set(keys.values())) > 1 else RAW
                pool, here = self._draft(recipe, POOL), self._here(recipe, POOL)
                raw[keys[recipe]] = Version(label, recipe, pool, here, None, mix)
        found = list(raw.values())
        for recipe, key in keys.items():
            rival = raw[key].label if raw else self.first if recipe != self.first else None
            draft, here = self._draft(recipe, CURATED), self._here(recipe, CURATED)
            found.append(Version(recipe, recipe, draft, here, rival, self._mix(recipe, CURATED)))
        return found

    def _mix(self, recipe: str, own: str) -> dict[str, Part]:
        """What a recipe's `mix` names, by digest; own: the step whose version is `curated`.

        Raises SluiceError for what is neither in the race nor in the store.
        """
        found: dict[str, Part] = {}
        for name, weight in self.recipes[recipe].mix.items():
            if name == "curated" or name in self.recipes:
                maker, step = (recipe, own) if name == "curated" else (name, CURATED)
                draft = self._draft(maker, step)
                digest, part = (
                    draft.spec.digest,
                    Part(name, draft.url, weight, self._here(maker, step)),
                )
            elif is_version(name):
                version = named_version(self.store, name, f"mix of {recipe}")
                digest, part = version.digest, Part(name, version.url, weight, None)
            else:
                raise SluiceError(
                    f"mix of {recipe} names {name!r}",
                    f"name `curated`, another entrant of the race, or a version as {HOW}",
                )
            if digest in found:
                raise SluiceError(
                    f"mix of {recipe} names one dataset version twice", "leave one of them out"
                )
            found[digest] = part
        return found

    def _runs(self) -> None:
        entrants, needs = [], list[str]()
        for version in self.versions:
            measured = self._measure(version)
            judged = [self._run(version, seed) for seed in range(self.settings.seeds)]
            entrants.append(
                Entrant(
                    version.label,
                    version.draft.url,
                    version.draft.spec.digest,
                    version.baseline,
                    measured.draft.url,
                    measured.draft.spec.digest,
                    tuple(step.draft.url for step in judged),
                    tuple(step.draft.spec.digest for step in judged),
                    {part.name: part.weight for part in version.mix.values()},
                )
            )
            needs += [version.step, measured.name, *(step.name for step in judged)]
        draft = table_draft(self.store, entrants, self.settings)
        work = TableWork(draft.url, tuple(entrants), self.settings)
        step = sharded("table", FLOW, {"": draft}, whole, work, needs)
        self._add(step, self.first, "evaluation")

    @property
    def table(self) -> Draft:
        """The artifact that a race is for."""
        return self.steps["table"].draft

    def _suffix(self, recipe: str) -> str:
        """What tells the steps of another pool from those of the first recipe's."""
        return "" if recipe == self.first else f" ({recipe})"

    def _embed(self, recipe: str, split: str) -> Step:
        """Vectors of a split by the first recipe's CLIP: one yardstick for all."""
        dataset, scorer = self._draft(recipe, split), self.pipelines[self.first].clip
        draft = score.score_draft(dataset.url, dataset.spec.digest, scorer)
        step = sharded(
            f"embed {split.removeprefix('ingest ')} to measure{self._suffix(recipe)}",
            FLOW,
            {scorer.name: draft},
            shards_of(dataset.url),
            score.ScoreWork(dataset.url, {scorer.name: scorer}),
            [self._here(recipe, split), self._here(self.first, EMBED)],
            gpu=True,
        )
        return self._add(step, recipe, split)

    def _cells(self, recipe: str, embedded: Step) -> Step:
        """The cell of every row of a recipe's pool."""
        pool, folder, asked = self._draft(recipe, POOL), folder_of(embedded.draft), self.measures
        found = cells.cells_draft(pool.url, folder, VECTOR, asked)
        work = cells.CellsWork(found.url, pool.url, folder, VECTOR, asked)
        step = sharded(
            f"cells of the pool{self._suffix(recipe)}", FLOW, {"": found}, whole, work,
            [embedded.name],
        )  # fmt: skip
        fitted = self._add(step, recipe, POOL)
        draft = cells.cell_scores_draft(pool.url, folder, VECTOR, asked)
        each = cells.CellScoresWork(draft.url, found.url, pool.url, folder, VECTOR)
        step = sharded(
            f"cell of each row{self._suffix(recipe)}", FLOW, {"": draft}, shards_of(pool.url), each,
            [fitted.name],
        )  # fmt: skip
        return self._add(step, recipe, POOL)

    def _measure(self, version: Version) -> Step:
        """What a version is like as a whole."""
        pool = self._embed(version.recipe, POOL)
        other = self._embed(self.first, f"ingest {self.measures.reference}")
        placed = self._cells(version.recipe, pool)
        inputs = Inputs(
            version.draft.url,
            self._draft(version.recipe, POOL).url,
            folder_of(pool.draft),
            folder_of(placed.draft),
            self._draft(self.first, f"ingest {self.measures.reference}").url,
            folder_of(other.draft),
            VECTOR,
        )
        draft = measures_draft(inputs, self.measures)
        step = sharded(
            f"measure {version.label}",
            FLOW,
            {"": draft},
            whole,
            MeasuresWork(draft.url, inputs, self.measures),
            [version.step, placed.name, other.name],
        )
        return self._add(step, version.recipe, POOL)

    def _run(self, version: Version, seed: int) -> Step:
        """Train on a version with one seed, and evaluate; the step of the evaluation."""
        training = self._train(version, seed)
        train, test = (self._draft(self.first, split) for split in (TRUSTED, EVALUATION))
        settings = self.settings.evaluate
        splits = {"train": train.spec.digest, "test": test.spec.digest}
        digests = {ENTRANT: training.draft.spec.digest}
        draft = evaluation.evaluate_draft(self.store, digests, splits, settings)
        work = evaluation.EvaluateWork(
            draft.url, {ENTRANT: training.draft.url}, train.url, test.url, settings
        )
        splits_here = [self._here(self.first, split) for split in (TRUSTED, EVALUATION)]
        needs = [training.name, *splits_here]
        name = f"evaluate {version.label}, seed {seed}"
        step = sharded(
            name, FLOW, {"": draft}, lambda: evaluation.evaluate_items(digests), work, needs,
            extra=work.comparisons,
        )  # fmt: skip
        return self._add(step, self.first, "evaluation")

    def _train(self, version: Version, seed: int) -> Step:
        settings = self.settings.training(seed)
        digests = {digest: digest for digest in version.mix}
        weights = {digest: part.weight for digest, part in version.mix.items()}
        draft = run.run_draft(self.store, FLOW, settings, digests, weights)
        sources = [Source(part.url, part.weight) for part in version.mix.values()]
        needs = tuple(part.step for part in version.mix.values() if part.step)

        def train(lent: Session) -> Mapping[str, Artifact]:
            made = run.train(draft, sources, settings, lent.launcher, lent.display, lent.address)
            return {"": made}

        step = Step(f"train {version.label}, seed {seed}", FLOW, {"": draft}, train, needs)
        return self._add(step, self.first, step.name)


def whole() -> list[Item]:
    """The one unit of work of a step that sees everything."""
    return [Item("all", None)]


def shards_of(url: str) -> Callable[[], Sequence[Item]]:
    """The shards of a dataset that will be there when this is called."""
    return lambda: shard_items(dataset_at(url).shards)


def needed(steps: Mapping[str, Step], names: Sequence[str]) -> list[Step]:
    """The steps of these names and all they need, in the order of `steps`."""
    wanted = set(names)
    for name in reversed(list(steps)):
        if name in wanted:
            wanted |= set(steps[name].needs)
    return [step for name, step in steps.items() if name in wanted]


def _identity(step: Step) -> frozenset[str]:
    """What a step makes: two that make the same are one."""
    return frozenset(draft.url for draft in step.drafts.values())
