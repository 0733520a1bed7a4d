"""The steps that train encoders on what other steps make, and ask what they have learnt."""

from collections.abc import Mapping
from typing import Any

from flows.annotations import with_columns
from flows.recipe import Recipe
from flows.step import Session, Step, sharded
from flows.versions import check_distinct, is_version, named_version
from infra.artifacts import Artifact
from infra.stage import Draft
from pretrain import run
from pretrain.data import Source
from pretrain.evaluate import stage as evaluation
from pretrain.evaluate.sources import content, locate
from pretrain.mix import Weight
from pretrain.settings import TrainSettings
from pretrain.told_classes import with_classes

RANDOM, PIXELS = "random", "pixels"


class Encoders:
    """Training and evaluation of a recipe, by the names of its datasets.

    steps: those before, which grow; folders: score folders of the pool by scorer.
    """

    def __init__(
        self, recipe: Recipe, store: str, steps: Mapping[str, Step], folders: Mapping[str, str]
    ) -> None:
        self.recipe, self.store = recipe, store
        self.steps, self.folders = steps, folders
        self.versions: dict[str, Artifact] = {}  # of the store, by the names in the recipe

    def training_step(
        self,
        step: str,
        flow: str,
        name: str,
        settings: TrainSettings,
        sources: Mapping[str, Weight],
    ) -> Step:
        """The run `name`: what it learns from is made by steps, or lies in the store."""
        settings, key = self.recipe.seeded(settings), f"pretrain.{name}.sources"
        settings, needs = self._asked_on(name, settings)
        settings, makers = with_columns(settings, f"pretrain.{name}", self.steps, self.folders)
        needs += makers
        needs += [self._dataset_step(source) for source in sources if not is_version(source)]
        found = {source: self._source(source, key) for source in sources}
        digests = {source: digest for source, (_, digest) in found.items()}
        check_distinct(digests, key)
        settings = with_classes(settings, {source: self._made_with(source) for source in sources})
        draft = run.run_draft(self.store, name, settings, digests, dict(sources))
        mixed = [Source(found[source][0], weight, source) for source, weight in sources.items()]

        def train(lent: Session) -> Mapping[str, Artifact]:
            made = run.train(draft, mixed, settings, lent.launcher, lent.display, lent.address)
            return {"": made}

        return Step(step, flow, {"": draft}, train, tuple(needs))

    def _asked_on(self, name: str, settings: TrainSettings) -> tuple[TrainSettings, list[str]]:
        """With the URLs of what a run is asked on while it trains, and the steps that make it."""
        places = settings.evaluate.places if settings.evaluate_every else {}
        steps = {place: self._dataset_step(place) for place in places.values()}
        needs = [step for step in steps.values() if step in self.steps]
        found = {
            field: self._source(place, f"pretrain.{name}.train.evaluate.{field}")[0]
            if steps[place] in needs or is_version(place)
            else locate(place, self.store)
            for field, place in places.items()
        }
        return settings.model_copy(update={"evaluate": settings.evaluate.placed(found)}), needs

    def evaluation_step(self) -> Step | None:
        """What becomes of all runs beside untrained ones and plain pixels; None without splits."""
        runs = {name: self.steps[f"pretrain {name}"].draft for name in self.recipe.pretrain}
        if not (runs and self._has("trusted") and self._has("evaluation")):
            return None
        settings = self.recipe.seeded(self.recipe.evaluate)
        first = {run.train.objective: name for name, run in reversed(self.recipe.pretrain.items())}
        digests = {name: draft.spec.digest for name, draft in runs.items()}
        urls = {name: draft.url for name, draft in runs.items()}
        for objective, name in sorted(first.items()):
            digests[f"{RANDOM}-{objective}"] = f"{RANDOM}:{runs[name].spec.digest}"
            urls[f"{RANDOM}-{objective}"] = f"{RANDOM}:{runs[name].url}"
        digests[PIXELS] = urls[PIXELS] = PIXELS
        train, test = self._split("trusted"), self._split("evaluation")
        splits, outside = {"train": train.spec.digest, "test": test.spec.digest}, ""
        needs = ["ingest trusted", "ingest evaluation"]
        if "out_of_distribution" in settings.tasks:
            outside, splits["outside"] = self._outside(settings.outside)
            needs += [f"ingest {settings.outside}"] if self._has(settings.outside) else []
        draft = evaluation.evaluate_draft(self.store, digests, splits, settings)
        work = evaluation.EvaluateWork(draft.url, urls, train.url, test.url, settings, outside)
        return sharded(
            "evaluation",
            "evaluate",
            {"": draft},
            lambda: evaluation.evaluate_items(digests),
            work,
            [*(f"pretrain {name}" for name in runs), *needs],
            extra=work.comparisons,
        )

    def _outside(self, name: str) -> tuple[str, str]:
        """URL and digest of `evaluate.outside`: of the recipe, of the store, or a URL."""
        if is_version(name) or self._has(name):
            return self._source(name, "evaluate.outside")
        return name, content(name)

    def _split(self, name: str) -> Draft:
        return self.steps[f"ingest {name}"].draft

    def _has(self, name: str) -> bool:
        return f"ingest {name}" in self.steps

    def _dataset_step(self, name: str) -> str:
        return {"curated": "curated version", "fractals": "fractals"}.get(name, f"ingest {name}")

    def _source(self, name: str, key: str) -> tuple[str, str]:
        """URL and digest of what a run learns from: made by a step, or a version of the store."""
        if not is_version(name):
            draft = self.steps[self._dataset_step(name)].draft
            return draft.url, draft.spec.digest
        if name not in self.versions:
            self.versions[name] = named_version(self.store, name, key)
        return self.versions[name].url, self.versions[name].digest

    def _made_with(self, name: str) -> Mapping[str, Any]:
        """The settings of the version that a run learns from."""
        if name in self.versions:
            return self.versions[name].settings
        return self.steps[self._dataset_step(name)].draft.spec.settings
