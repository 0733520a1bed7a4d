"""The steps of a recipe in one store, strung together by digests: no data is looked at here.

corpus -> ingest pool, trusted, evaluation -> scores -> filter network -> CLIP scores
-> duplicate pairs, contamination -> verdicts (-> selection) -> curated version -> index
fractals, curated, pool -> training runs -> evaluation
"""

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from curation import contamination, curate, dedup, frequency, rules, score, verdicts
from curation.columns import dataset_at
from curation.measures import cells
from curation.scores.clip import ClipScorer, best_precision
from curation.scores.reference import Given, Reference
from curation.scores.registry import chosen_scorer, pixel_scorers
from flows.annotations import annotation_steps
from flows.indexing import index_steps
from flows.recipe import Recipe
from flows.selection import selection_step
from flows.sources import ingest_steps
from flows.step import Step, sharded
from flows.synthesis import fractals_step
from flows.training import Encoders
from infra.dataset import ROWS
from infra.errors import SluiceError
from infra.stage import Draft, Item
from pretrain.mix import Weight
from pretrain.settings import TrainSettings

FILTER = "filter"
CHOSEN = "score pool by choice"
FREQUENCY = "caption frequency"


class Pipeline:
    """All steps of a recipe, by name, in an order in which they could run."""

    def __init__(self, recipe: Recipe, store: str) -> None:
        self.recipe = recipe
        self.store = store
        self.steps: dict[str, Step] = {}
        self.folders: dict[str, str] = {}  # scorer -> score folder of the pool
        self.columns: dict[str, pa.Schema] = {"rows": ROWS}  # what rules are written over
        self.encoders = Encoders(recipe, store, self.steps, self.folders)
        self._ingest()
        self._pixel_scores()
        self._filter_network()
        self._clip_scores()
        self._chosen_scores()
        self._decisions()
        self._index()
        self._fractals()
        self._annotate()
        self._pretrain()

    def _add(self, step: Step) -> Step:
        self.steps[step.name] = step
        return step

    def _split(self, name: str) -> Draft:
        return self.steps[f"ingest {name}"].draft

    def _has(self, name: str) -> bool:
        return f"ingest {name}" in self.steps

    def _shards(self, url: str) -> Callable[[], Sequence[Item]]:
        """The shards of a dataset that will be there when this is called."""
        return lambda: [Item(part.name, int(part.name)) for part in dataset_at(url).artifact.parts]

    # ---- samples ----

    def _ingest(self) -> None:
        data = self.recipe.data
        if data.generate:
            data = data.model_copy(update={"generate": self.recipe.seeded(data.generate)})
        for step in ingest_steps(data, self.store):
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
        wanted = {
            name: self.recipe.seeded(each) for name, each in self.recipe.curate.scores.items()
        }
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
            self.store, settings.publish, pool.url, digest, decided.spec.digest, scored,
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
                publishes=settings.publish,
            )
        )

    def _selection(self, pool: Draft, decided: Draft, scored: Mapping[str, str]) -> Draft | None:
        if self.recipe.curate.selection is None:
            return None
        settings = self.recipe.seeded(self.recipe.curate.selection)
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
        self.index = self.recipe.seeded(self.recipe.index)
        for step in index_steps(curated.url, curated.spec.digest, self.index, ["curated version"]):
            self._add(step)

    def _fractals(self) -> None:
        if self.recipe.synthesize.fractals is not None:
            settings = self.recipe.seeded(self.recipe.synthesize.fractals)
            self._add(fractals_step(settings, self.store))

    def _annotate(self) -> None:
        curated, pool = self.steps["curated version"].draft, self._split("pool")
        given = Given(self.clip, Reference(pool.url, self.folders["clip"]), None)
        wanted = {name: self.recipe.seeded(each) for name, each in self.recipe.annotate.items()}
        for step in annotation_steps(wanted, curated, given):
            self._add(step)

    def _pretrain(self) -> None:
        for name, encoder in self.recipe.pretrain.items():
            self._train(f"pretrain {name}", "pretrain", name, encoder.train, encoder.sources)
        if evaluation := self.encoders.evaluation_step():
            self._add(evaluation)

    def _train(
        self,
        step: str,
        flow: str,
        name: str,
        settings: TrainSettings,
        sources: Mapping[str, Weight],
    ) -> None:
        self._add(self.encoders.training_step(step, flow, name, settings, sources))


def folder_of(draft: Draft) -> str:
    """The last name of a score artifact's URL."""
    return draft.url.rpartition("/")[2]


def relative(url: str, store: str) -> str:
    return url.removeprefix(store).lstrip("/")
