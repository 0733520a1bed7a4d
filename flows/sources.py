"""The steps that bring samples in: the demo's corpus, tables made of text, splits, retries,
and images that are drawn (generate.py).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from curation import ingest, retry
from curation.fingerprint import source_fingerprint
from curation.intake import Intake
from curation.settings import SourceSettings
from curation.sources import text_tables
from curation.sources.urls import needs_tables
from curation.takedown.list import takedown_lists
from flows.demo import corpus
from flows.generate import generate_steps
from flows.recipe import DataSettings
from flows.step import Step, sharded
from flows.versions import standing
from infra.artifacts import load
from infra.stage import Draft, Item

SPLITS = ("pool", "trusted", "evaluation")


def ingest_steps(data: DataSettings, store: str) -> Iterator[Step]:
    """One step for each split, after those that make what it reads."""
    demo = _demo(data, store)
    if demo is not None:
        yield demo
    drafts: dict[str, Draft] = {}
    for name in SPLITS:
        for step in _steps_of(name, data, store, demo):
            drafts[name] = step.draft
            yield step
    if data.generate:
        yield from generate_steps(data.generate, store, drafts.get("trusted"))
    for name, sources in data.held_out.items():
        yield from _given(name, data, store, sources)


def _steps_of(name: str, data: DataSettings, store: str, demo: Step | None) -> Iterator[Step]:
    """The steps of a split, its own last; none where the recipe has no such split."""
    sources: Sequence[SourceSettings] = getattr(data, name)
    if name == "pool" and data.generate:
        return
    if name == "pool" and data.retry_failed:
        yield _retry(data, store)
    elif demo is not None and data.demo is not None:
        sources = corpus.corpus_sources(demo.draft.url, data.demo, name)
        fingerprint = demo.draft.spec.digest
        items = partial(ingest.ingest_items, sources, data.rows_per_shard)
        yield _split(name, data, store, sources, fingerprint, items, [demo.name])
    elif sources:
        yield from _given(name, data, store, sources)


def _demo(data: DataSettings, store: str) -> Step | None:
    settings = data.demo
    if settings is None:
        return None
    draft = corpus.corpus_draft(store, settings)
    items = corpus.corpus_items(settings)
    work = corpus.CorpusWork(draft.url, settings)
    return sharded("demo corpus", "ingest", {"": draft}, lambda: items, work)


def _given(
    name: str, data: DataSettings, store: str, sources: Sequence[SourceSettings]
) -> Iterator[Step]:
    """The step of a split, after those of its tables that are text.

    A split that stands needs these no more: a takedown removes them.
    """
    tables: dict[int, Step] = {}

    def items() -> Sequence[Item]:
        made = {index: load(step.draft.url) for index, step in tables.items()}
        return ingest.ingest_items(sources, data.rows_per_shard, made)

    fingerprint = source_fingerprint(sources, store)
    split = _split(name, data, store, sources, fingerprint, items, ())
    if not split.stored:
        for index, source in enumerate(sources):
            if needs_tables(source):
                title = f"read {name} table {index}" if len(sources) > 1 else f"read {name} table"
                tables[index] = _table(title, name, source, store)
    yield from tables.values()
    yield replace(split, needs=tuple(step.name for step in tables.values()))


def _table(title: str, name: str, source: SourceSettings, store: str) -> Step:
    """A table of the split `name` that is text, turned into Parquet."""
    fingerprint, taken = source_fingerprint([source], store), tuple(takedown_lists(store))
    draft = text_tables.text_tables_draft(store, name, source, fingerprint, taken)
    items = partial(text_tables.text_tables_items, source)
    work = text_tables.TextTablesWork(draft.url, taken)
    return sharded(title, "ingest", {"": draft}, items, work)


def _split(
    name: str,
    data: DataSettings,
    store: str,
    sources: Sequence[SourceSettings],
    fingerprint: str,
    items: Callable[[], Sequence[Item]],
    needs: Sequence[str],
) -> Step:
    every = intakes_of(data, store)
    intake = every[0]
    draft = standing(
        store,
        [
            ingest.ingest_draft(store, name, sources, fingerprint, data.rows_per_shard, each)
            for each in every
        ],
    )
    return sharded(
        f"ingest {name}",
        "ingest",
        {"": draft},
        items,
        ingest.IngestWork(draft.url, intake),
        needs,
        publishes=name,
        extra=partial(ingest.refuse_nothing, sources),
    )


def _retry(data: DataSettings, store: str) -> Step:
    """A version of the pool in which the transient failures of another are tried again."""
    every = intakes_of(data, store)
    intake = every[0]
    old = retry.failed_version(store, data.retry_failed or "")
    draft = standing(store, [retry.retry_draft(store, old, each) for each in every])
    expected = retry.promises(old.settings)
    return sharded(
        "ingest pool",
        "ingest",
        {"": draft},
        partial(retry.retry_items, old),
        retry.RetryWork(draft.url, old.url, intake, expected),
        publishes="pool",
    )


def intake_of(data: DataSettings) -> Intake:
    return Intake(data.fetch, data.blocklists, data.resize)


def intakes_of(data: DataSettings, store: str) -> list[Intake]:
    """The intake that obeys all takedowns of the store, then those of when there were fewer."""
    lists, plain = tuple(takedown_lists(store)), intake_of(data)
    return [replace(plain, takedowns=lists[:count]) for count in range(len(lists), -1, -1)]
