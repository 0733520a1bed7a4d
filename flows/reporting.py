"""What the report of a recipe's run is made from."""

from collections.abc import Sequence
from typing import Any

from flows.annotations import step_name
from flows.pipeline import Pipeline
from flows.report.context import ReportContext
from infra.filesystem import join


def report_context(pipeline: Pipeline, timings: Sequence[Any]) -> ReportContext:
    """Where the report finds everything that a recipe has made."""
    drafts = {name: step for name, step in pipeline.steps.items() if step.stored}

    def url(name: str) -> str | None:
        return drafts[name].draft.url if name in drafts else None

    pool = pipeline.steps["ingest pool"].draft.url
    data = pipeline.recipe.data
    demo = None if data.generate else url("demo corpus")  # its defects are in its own pool
    return ReportContext(
        name=pipeline.recipe.name,
        pool=url("ingest pool"),
        curated=url("curated version"),
        verdicts=url("verdicts"),
        selection=url("selection"),
        edges=url("duplicate pairs"),
        scores={name: join(pool, "scores", folder) for name, folder in pipeline.folders.items()},
        canaries=join(demo, "canaries.parquet") if demo else data.canaries,
        runs={
            name.removeprefix("pretrain "): draft.url
            for name, step in drafts.items()
            if step.trains
            for draft in step.drafts.values()
        },
        evaluation=url("evaluation"),
        held_out=url("ingest evaluation"),
        index=url("index"),
        fractals=url("fractals"),
        captions=caption_folders(pipeline),
        versions={name: version.url for name, version in pipeline.encoders.versions.items()},
        filter_model=filter_statement(pipeline),
        filter_trained="filter network" in pipeline.steps,
        recipe=pipeline.recipe.model_dump(mode="json", exclude_none=True),
        steps=timings,
    )


def caption_folders(pipeline: Pipeline) -> dict[str, str]:
    """URLs of what models write of the samples that stay, by name."""
    recipe, pool = pipeline.recipe, pipeline.steps["ingest pool"].draft.url
    scored = [name for name, each in recipe.curate.scores.items() if each.kind == "caption"]
    made = [name for name, each in recipe.annotate.items() if each.kind == "caption"]
    return {
        **{name: join(pool, "scores", pipeline.folders[name]) for name in scored},
        **{name: pipeline.steps[step_name(name)].draft.url for name in made},
    }


def filter_statement(pipeline: Pipeline) -> str:
    """One sentence on the model that scored the pairs."""
    settings = pipeline.recipe.filter
    if "filter network" in pipeline.steps:
        return (
            "A small filter network, an open_clip model trained on the trusted split alone: "
            f"{pipeline.steps['filter network'].draft.url}"
        )
    weights = f" with weights {settings.pretrained}" if settings.pretrained else ""
    return f"The given open_clip model {settings.model}{weights}; nothing was trained."
