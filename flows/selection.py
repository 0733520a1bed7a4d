"""The step between verdicts and curated version that picks what is taken of what stays."""

from collections.abc import Iterable, Mapping

import pyarrow as pa

from curation.dedup import ALL
from curation.selection import select
from curation.selection.settings import SelectionSettings
from flows.step import Step, sharded
from infra.stage import Draft


def selection_step(
    settings: SelectionSettings,
    store: str,
    pool: Draft,
    decided: Draft,
    scored: Mapping[str, str],
    schemas: Mapping[str, pa.Schema],
    steps: Iterable[Step],
) -> Step:
    """Checks the plan against what is scored: columns by scorer, vectors of the steps so far."""
    made = [draft for step in steps for draft in step.drafts.values()]
    vectors = [
        f"{draft.spec.settings['scorer']}/{vector}"
        for draft in made
        if draft.spec.kind == "scores" and draft.url.rpartition("/")[2] in scored.values()
        for vector in draft.spec.settings.get("vectors", ())
    ]
    select.check_plan(settings, schemas, vectors)
    digest = decided.spec.digest
    draft = select.selection_draft(pool.url, pool.spec.digest, scored, digest, settings)
    after = select.older_url(store, settings)
    work = select.SelectionWork(draft.url, pool.url, scored, decided.url, settings, after)
    return sharded("selection", "curate", {"": draft}, lambda: [ALL], work, ["verdicts"])
