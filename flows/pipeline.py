"""The steps of a recipe in one store, strung together by digests: no data is looked at here.

corpus -> ingest pool, trusted, evaluation -> scores -> filter network -> CLIP scores
-> duplicate pairs, contamination -> verdicts (-> selection) -> curated version -> index
fractals, curated, pool -> training runs -> evaluation
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import pyarrow as pa

from curation import contamination, curate, dedup, frequency, rules, score, verdicts
from curation.columns import dataset_at
from curation.measures import cells
from curation.scores.clip import ClipScorer, best_precision
from curation.scores.reference import Given, Reference
from curation.scores.registry import chosen_scorer, pixel_scorers
from curation.selection.settings import SelectionSettings
from curation.synthetic.settings import FractalSettings
from flows.indexing import index_steps
from flows.recipe import Recipe
from flows.selection import selection_step
from flows.sources import ingest_steps
from flows.step import Session, Step, sharded
from flows.synthesis import fractals_step
from flows.versions import check_distinct, is_version, named_version
from indexes.settings import IndexSettings
from infra.artifacts import Artifact
from infra.dataset import ROWS
from infra.errors import SluiceError
from infra.stage import Draft, Item
from pretrain import run
from pretrain.data import Source
from pretrain.evaluate import stage as evaluation
from pretrain.evaluate.sources import content, locate
from pretrain.evaluate_settings import EvaluateSettings
from pretrain.mix import Weight
from pretrain.settings import TrainSettings

Seeded = TypeVar(
    "Seeded", IndexSettings, FractalSettings, TrainSettings, EvaluateSettings, SelectionSettings
)
FILTER = "filter"
CHOSEN = "score pool by choice"
FREQUENCY = "caption frequency"
RANDOM, PIXELS = "random", "pixels"


class Pipeline:
    """All steps of a recipe, by name, in an order in which they could run."""

    def __init__(self, recipe: Recipe, store: str) -> None:
        self.recipe = recipe
        self.store = store
        self.steps: dict[str, Step] = {}
        self.folders: dict[str, str] = {}  # scorer -> score folder of the pool
        self.columns: dict[str, pa.Schema] = {"rows": ROWS}  # what rules are written over
        self.versions: dict[str, Artifact] = {}  # of the store, by the names in the recipe
        self._ingest()
        self._pixel_scores()
        self._filter_network()
        self._clip_scores()
        self._chosen_scores()
        self._decisions()
        self._index()
        self._fractals()
        self._pretrain()
        self._evaluate()

    def _add(self, step: Step) -> Step:
        self.steps[step.name] = step
        return step

    def _seeded(self, settings: Seeded) -> Seeded:
        """A stage's own seed counts from the recipe's."""
        return settings.model_copy(update={"seed": self.recipe.seed + settings.seed})

    def _split(self, name: str) -> Draft:
        return self.steps[f"ingest {name}"].draft

    def _has(self, name: str) -> bool:
        return f"ingest {name}" in self.steps

    def _shards(self, url: str) -> Callable[[], Sequence[Item]]:
        """The shards of a dataset that will be there when this is called."""
        return lambda: [Item(part.name, int(part.name)) for part in dataset_at(url).artifact.parts]

    # ---- samples ----

    def _ingest(self) -> None:
        for step in ingest_steps(self.recipe.data, self.store):
            self._add(step)

    # ---- scores ----

    def _pixel_scores(self) -> None:
        for name in ("pool", *self._evaluation_sets()):
            scorers = pixel_scorers(only_matching=name != "pool")
            dataset = self._split(name)
            drafts = {
                scorer.name: score.score_draft(dataset.url, dataset.spec.digest, scorer)
                for scorer in scorers
            }
            if name == "pool":
                self.folders |= {key: folder_of(draft) for key, draft in drafts.items()}
                self.columns |= {scorer.name: scorer.columns for scorer in scorers}
            self._add(
                sharded(
                    f"score {name}",
                    "curate",
                    drafts,
                    self._shards(dataset.url),
                    score.ScoreWork(dataset.url, {scorer.name: scorer for scorer in scorers}),
                    [f"ingest {name}"],
                )
            )

    def _evaluation_sets(self) -> list[str]:
        """What nothing in the curated version may resemble."""
        return ["evaluation"] * self._has("evaluation") + list(self.recipe.data.held_out)

    def _filter_network(self) -> None:
        settings = self.recipe.filter
        if settings.model is not None or settings.train is None:
            return
        self._train("filter network", "curate", FILTER, settings.train, {"trusted": 1.0})

    def _clip_scores(self) -> None:
        settings = self.recipe.filter
        trained = self.steps.get("filter network")
        scorer = ClipScorer(
            model=relative(trained.draft.url, self.store) if trained else settings.model or "",
            pretrained=settings.pretrained,
            store=self.store,
            references=settings.references,
            reference_url=self._split("trusted").url if self._has("trusted") else None,
            reference_digest=(self._split("trusted").spec.digest if self._has("trusted") else None),
            precision=best_precision() if settings.precision == "auto" else settings.precision,
        )
        self.clip = scorer
        self.folders[scorer.name] = self._embed("pool").folder
        self.columns[scorer.name] = scorer.columns

    def _embed(self, split: str) -> Reference:
        """Adds the step that embeds a split with the CLIP that scores the pool."""
        dataset, scorer = self._split(split), self.clip
        draft = score.score_draft(dataset.url, dataset.spec.digest, scorer)
        needs = {f"ingest {split}"} | {"ingest trusted"} & self.steps.keys()
        self._add(
            sharded(
                f"embed {split}",
                "curate",
                {scorer.name: draft},
                self._shards(dataset.url),
                score.ScoreWork(dataset.url, {scorer.name: scorer}),
                sorted(needs | {"filter network"} & self.steps.keys()),
                gpu=True,
            )
        )
        return Reference(dataset.url, folder_of(draft))

    def _chosen_scores(self) -> None:
        """What `curate.scores` names; these may read the vectors of all scorers before them."""
        pool, before = self._split("pool"), dict(self.folders)
        wanted = self.recipe.curate.scores
        if not wanted:
            return
        compares = self._has("trusted") and any(each.reads_trusted for each in wanted.values())
        trusted = self._embed("trusted") if compares else None
        given = Given(self.clip, Reference(pool.url, before["clip"]), trusted)
        chosen = [chosen_scorer(*named, given) for named in wanted.items()]
        for scorer in chosen:
            if scorer.name in (*self.columns, contamination.NAME, frequency.NAME, cells.NAME):
                raise SluiceError(
                    f"curate.scores.{scorer.name} has the name of scores that are always there",
                    "give it another name",
                )
        drafts = {
            scorer.name: score.score_draft(pool.url, pool.spec.digest, scorer, folders=before)
            for scorer in chosen
        }
        self.folders |= {name: folder_of(draft) for name, draft in drafts.items()}
        self.columns |= {scorer.name: scorer.columns for scorer in chosen}
        self._add(
            sharded(
                CHOSEN,
                "curate",
                drafts,
                self._shards(pool.url),
                score.ScoreWork(pool.url, {each.name: each for each in chosen}, folders=before),
                ["score pool", "embed pool"] + ["embed trusted"] * compares,
                gpu=any(each.runs_network for each in wanted.values()),
            )
        )

    # ---- decisions ----

    def _decisions(self) -> None:
        settings, pool = self.recipe.curate, self._split("pool")
        digest = pool.spec.digest
        scored = dict(self.folders)
        pairs = dedup.edges_draft(pool.url, digest, scored, settings.dedup)
        older = dedup.older_url(self.store, settings.dedup)
        self._add(
            sharded(
                "duplicate pairs",
                "curate",
                {"": pairs},
                lambda: [dedup.ALL],
                dedup.EdgesWork(pairs.url, pool.url, scored, settings.dedup, older),
                ["score pool", "embed pool"],
            )
        )
        if self._evaluation_sets():
            self._contamination(pool)
        self._frequency(pool)
        order = settings.dedup.order(rules.column_names(self.columns))
        rules.check_rules(settings.rules, self.columns, order)
        scored = dict(self.folders)
        decided = verdicts.verdicts_draft(
            pool.url, digest, scored, pairs.spec.digest, settings.rules, settings.dedup
        )
        self._add(
            sharded(
                "verdicts",
                "curate",
                {"": decided},
                lambda: [dedup.ALL],
                verdicts.VerdictsWork(
                    decided.url, pool.url, scored, pairs.url,
                    settings.rules, settings.dedup,
                ),
                ["duplicate pairs"]
                + ["contamination"] * bool(self._evaluation_sets())
                + [name for name in (CHOSEN, FREQUENCY) if name in self.steps],
            )
        )  # fmt: skip
        selected = self._selection(pool, decided, scored)
        curated = curate.curate_draft(
            self.store, "curated", pool.url, digest, decided.spec.digest, scored,
            pairs.spec.digest, selected and selected.spec.digest,
        )  # fmt: skip
        self._add(
            sharded(
                "curated version",
                "curate",
                {"": curated},
                self._shards(pool.url),
                curate.CurateWork(curated.url, pool.url, decided.url, selected and selected.url),
                ["selection" if selected else "verdicts"],
                publishes="curated",
            )
        )

    def _selection(self, pool: Draft, decided: Draft, scored: Mapping[str, str]) -> Draft | None:
        if self.recipe.curate.selection is None:
            return None
        settings = self._seeded(self.recipe.curate.selection)
        step = selection_step(
            settings, self.store, pool, decided, scored, self.columns, self.steps.values()
        )
        return self._add(step).draft

    def _frequency(self, pool: Draft) -> None:
        """How often captions come: it must see all shards, so only where a rule asks for it."""
        settings = self.recipe.curate
        columns = {**self.columns, frequency.NAME: frequency.COLUMNS}
        order = settings.dedup.order(rules.column_names(columns))
        asked = rules.needed_columns(settings.rules, columns, order)
        if not any(name.startswith(f"{frequency.NAME}.") for name in asked):
            return
        draft = frequency.frequency_draft(pool.url, pool.spec.digest)
        self.folders[frequency.NAME], self.columns = folder_of(draft), columns
        work = frequency.FrequencyWork(draft.url, pool.url)
        self._add(
            sharded(FREQUENCY, "curate", {"": draft}, lambda: [dedup.ALL], work, ["ingest pool"])
        )

    def _contamination(self, pool: Draft) -> None:
        sets = []
        for name in self._evaluation_sets():
            made, drafts = self._split(name), self.steps[f"score {name}"].drafts
            folders = {scorer: folder_of(draft) for scorer, draft in drafts.items()}
            sets.append(contamination.EvaluationSet(name, made.url, made.spec.digest, folders))
        settings, scored = self.recipe.curate.contamination, dict(self.folders)
        draft = contamination.contamination_draft(
            pool.url, pool.spec.digest, scored, sets, settings
        )
        work = contamination.ContaminationWork(draft.url, pool.url, scored, sets, settings)
        self.folders["contamination"] = folder_of(draft)
        self.columns["contamination"] = contamination.COLUMNS
        self._add(
            sharded(
                "contamination",
                "curate",
                {"": draft},
                self._shards(pool.url),
                work,
                ["score pool", "embed pool", *(f"score {each.name}" for each in sets)],
            )
        )

    # ---- what is made of the curated version ----

    def _index(self) -> None:
        curated = self.steps["curated version"].draft
        self.index = self._seeded(self.recipe.index)
        for step in index_steps(curated.url, curated.spec.digest, self.index, ["curated version"]):
            self._add(step)

    def _fractals(self) -> None:
        if self.recipe.synthesize.fractals is not None:
            settings = self._seeded(self.recipe.synthesize.fractals)
            self._add(fractals_step(settings, self.store))

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

    def _train(
        self,
        step: str,
        flow: str,
        name: str,
        settings: TrainSettings,
        sources: Mapping[str, Weight],
    ) -> None:
        settings, key = self._seeded(settings), f"pretrain.{name}.sources"
        settings, needs = self._asked_on(name, settings)
        needs += [self._dataset_step(source) for source in sources if not is_version(source)]
        found = {source: self._source(source, key) for source in sources}
        digests = {source: digest for source, (_, digest) in found.items()}
        check_distinct(digests, key)
        draft = run.run_draft(self.store, name, settings, digests, dict(sources))
        mixed = [Source(found[source][0], weight, source) for source, weight in sources.items()]

        def train(lent: Session) -> Mapping[str, Artifact]:
            made = run.train(draft, mixed, settings, lent.launcher, lent.display, lent.address)
            return {"": made}

        self._add(Step(step, flow, {"": draft}, train, tuple(needs)))

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

    def _pretrain(self) -> None:
        for name, encoder in self.recipe.pretrain.items():
            self._train(f"pretrain {name}", "pretrain", name, encoder.train, encoder.sources)

    def _evaluate(self) -> None:
        runs = {name: self.steps[f"pretrain {name}"].draft for name in self.recipe.pretrain}
        if not (runs and self._has("trusted") and self._has("evaluation")):
            return
        settings = self._seeded(self.recipe.evaluate)
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
        self._add(
            sharded(
                "evaluation",
                "evaluate",
                {"": draft},
                lambda: evaluation.evaluate_items(digests),
                work,
                [*(f"pretrain {name}" for name in runs), *needs],
                extra=work.comparisons,
            )
        )

    def _outside(self, name: str) -> tuple[str, str]:
        """URL and digest of `evaluate.outside`: of the recipe, of the store, or a URL."""
        if is_version(name) or self._has(name):
            return self._source(name, "evaluate.outside")
        return name, content(name)


def folder_of(draft: Draft) -> str:
    """The last name of a score artifact's URL."""
    return draft.url.rpartition("/")[2]


def relative(url: str, store: str) -> str:
    return url.removeprefix(store).lstrip("/")
