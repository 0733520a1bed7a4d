"""The steps that index a dataset version, of a recipe or any other."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from flows.recipe import Recipe
from flows.step import Session, Step, sharded
from indexes import building
from indexes.settings import IndexSettings
from infra.artifacts import Artifact
from infra.dataset import Dataset, open_dataset


def index_steps(
    dataset_url: str, dataset_digest: str, settings: IndexSettings, needs: Sequence[str] = ()
) -> list[Step]:
    """A step for each stage; the last publishes the index if its recall reaches the target."""
    steps: list[Step] = []
    for stage in building.stages(dataset_url, dataset_digest, settings):
        drafts = {"": stage.draft}
        step = sharded(stage.name, "index", drafts, stage.items, stage.work, needs, gpu=stage.gpu)
        steps.append(step)
        needs = [stage.name]
    last = steps[-1]

    def run(session: Session) -> Mapping[str, Artifact]:
        made = last.run(session)
        building.publish(made[""], settings)
        return made

    return [*steps[:-1], replace(last, run=run)]


def version_steps(
    recipe: Recipe, store: str, name: str
) -> tuple[Dataset, IndexSettings, list[Step]]:
    """The steps that index the version NAME or NAME@VERSION, which is there, and nothing else."""
    opened = open_dataset(store, name)
    settings = building.pinned(opened, recipe.seeded(recipe.index))
    return opened, settings, index_steps(opened.url, opened.artifact.digest, settings)
