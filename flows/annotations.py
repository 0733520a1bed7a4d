"""The steps that make columns of the curated version alone, and the runs that read columns.

    <curated version>/scores/<name>-<digest>/columns/00000.parquet

A scorer serves by its kind in `curation.scores.registry`, a teacher by `pretrain.reinforce`. What
is dropped holds nulls.
"""

from collections.abc import Iterator, Mapping

from curation import score
from curation.columns import dataset_at
from curation.contamination import shard_items
from curation.scores.reference import Given
from curation.scores.registry import chosen_scorer
from flows.recipe import AnnotateSettings, TeacherAnnotation
from flows.step import Step, sharded
from infra.errors import SluiceError
from infra.stage import Draft
from pretrain import reinforce
from pretrain.reinforce_settings import ReinforceSettings
from pretrain.settings import TrainSettings

NEEDS = ("curated version",)


def step_name(name: str) -> str:
    """The step that makes the columns `name`."""
    return f"annotate {name}"


def annotation_steps(
    wanted: Mapping[str, AnnotateSettings], curated: Draft, given: Given
) -> Iterator[Step]:
    """A step for each entry of `annotate`: it makes one score folder of the curated version."""
    for name, settings in wanted.items():
        if isinstance(settings, TeacherAnnotation):
            yield _reinforce_step(name, settings.asked, curated)
            continue
        scorer = chosen_scorer(name, settings, given)
        draft = score.score_draft(curated.url, curated.spec.digest, scorer)
        yield sharded(
            step_name(name),
            "synthesize",
            {name: draft},
            lambda: shard_items(dataset_at(curated.url).shards),
            score.ScoreWork(curated.url, {name: scorer}),
            NEEDS,
            gpu=settings.runs_network,
        )


def _reinforce_step(name: str, settings: ReinforceSettings, curated: Draft) -> Step:
    draft = reinforce.reinforce_draft(curated.url, curated.spec.digest, name, settings)
    work = reinforce.ReinforceWork(draft.url, curated.url, settings)
    return sharded(
        step_name(name),
        "synthesize",
        {name: draft},
        lambda: reinforce.reinforce_items(curated.url, settings),
        work,
        NEEDS,
        extra=work.figures,
        gpu=True,
    )


def with_columns(
    settings: TrainSettings, key: str, steps: Mapping[str, Step], pool: Mapping[str, str]
) -> tuple[TrainSettings, list[str]]:
    """A run's settings with the folders of the columns that its options read, and what makes them.

    Of one name `annotate` goes before the scores of the pool; a folder that the recipe itself names
    in `columns` before both. pool: score folders by scorer. Raises SluiceError for columns that
    nothing makes.
    """
    found, needs = dict(settings.columns), list[str]()
    makers = {
        draft.url.rpartition("/")[2]: step.name
        for step in steps.values()
        for draft in step.drafts.values()
    }
    for name in sorted(settings.options.reads() - found.keys()):
        step = steps.get(step_name(name))
        folder = step.draft.url.rpartition("/")[2] if step else pool.get(name)
        if folder is None:
            raise SluiceError(
                f"{key} reads the columns {name!r}, and nothing in the recipe makes these",
                f"say how in annotate.{name}, or in curate.scores.{name}",
            )
        found[name] = folder
        needs.append(makers[folder])
    if found == settings.columns:
        return settings, []
    return settings.model_copy(update={"columns": found}), needs
