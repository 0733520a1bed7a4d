"""What the report of a recipe's run is made from."""

from collections.abc import Sequence
from typing import Any

from flows.pipeline import Pipeline
from flows.report.context import ReportContext
from infra.filesystem import join


def report_context(pipeline: Pipeline, timings: Sequence[Any]) -> ReportContext:
    """Where the report finds everything that a recipe has made."""
    drafts = {name: step for name, step in pipeline.steps.items() if step.stored}

    def url(name: str) -> str | None:
        return drafts[name].draft.url if name in drafts else None

    pool = pipeline.steps["ingest pool"].draft.url
    demo = url("demo corpus")
    return ReportContext(
        name=pipeline.recipe.name,
        pool=url("ingest pool"),
        curated=url("curated version"),
        verdicts=url("verdicts"),
        selection=url("selection"),
        edges=url("duplicate pairs"),
        scores={name: join(pool, "scores", folder) for name, folder in pipeline.folders.items()},
        canaries=join(demo, "canaries.parquet") if demo else pipeline.recipe.data.canaries,
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
        versions={name: version.url for name, version in pipeline.versions.items()},
        filter_model=filter_statement(pipeline),
        filter_trained="filter network" in pipeline.steps,
        recipe=pipeline.recipe.model_dump(mode="json", exclude_none=True),
        steps=timings,
    )


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
