"""`--plan`: what would run, what is already there, how long and how large; nothing is written.

The first shard is made and ingested aside, in a temporary folder, and timed. Stages that load
PyTorch, numba or a language model would take longer to start than a plan may take: they are
reckoned from how long they took in this store before, else from the rates of the demo as last
benchmarked on two cores (flows/rates.json), by pixels where they look at pixels. What a network
costs is only told of one that ran.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from curation import ingest
from curation.columns import rows_url
from curation.generate.settings import GenerateSettings
from curation.generate.work import total
from flows.demo import corpus
from flows.generate import PROMPTS
from flows.index_kind import kind_told
from flows.main import TARGETS, Options, Prepared, prepare, prepare_index, stored_artifacts
from flows.recipe import Recipe
from flows.rules_plan import rules_plan
from flows.step import Step, closure
from infra import artifacts, drawn, filesystem
from infra.artifacts import Spec
from infra.dataset import read_table
from infra.digests import digest
from infra.errors import SluiceError
from infra.progress import SilentDisplay, duration
from infra.runner import InlineRunner
from infra.stage import Draft, Item, Work, run_stage

RATES = Path(__file__).parent / "rates.json"
MEASURED, BEFORE = "one shard, measured now", "last time in this store"
PLACES = {"dataset": "*/*", "run": "runs/*/*", "evaluation": "evaluations/*"}  # by kind
NETWORK = ("model_kwargs", "pretrained", "image_size", "batch")
BENCHMARK = "the benchmark, on 2 cores"


@dataclass(frozen=True)
class Rate:
    """What a row costs: CPU-seconds and bytes; `basis` says how we know."""

    seconds: float
    bytes: float
    basis: str


@dataclass(frozen=True)
class Line:
    """One step of a plan. rows, seconds and bytes are None where nobody can tell yet."""

    step: str
    stored: bool
    rows: int | None = None
    seconds: float | None = None
    bytes: float | None = None
    basis: str = ""


def plan(options: Options, target: str) -> str:
    """The plan of a target, as a table to print."""
    prepared = prepare(options)
    steps = closure(prepared.pipeline.steps, TARGETS[target])
    title = f"{target} of {prepared.recipe.name!r}"
    text = show(title, prepared.store, lines(prepared, steps))
    if any(step.flow == "pretrain" for step in steps):
        text += "".join(f"\n{line}" for line in _versions(prepared))
    if any(step.name == "index" for step in steps):
        text += f"\n{_kind(prepared)}"
    if "verdicts" in (step.name for step in steps):
        text += "\n\n" + rules_plan(prepared)
    return text + "\nnothing was written"


def plan_dataset(options: Options, name: str) -> str:
    """The plan of an index of any version, NAME or NAME@VERSION."""
    asked = prepare_index(options, name)
    version = asked.dataset.artifact
    estimate = VersionEstimate(asked.recipe, asked.store, version.totals["rows"])
    found = [line_of(step, estimate) for step in asked.steps]
    title = f"index of {asked.dataset.url.split('/')[-2]}@{version.digest}"
    kind = kind_told(asked.steps[-1].draft, asked.dataset.url, asked.settings)
    return f"{show(title, asked.store, found)}\n{kind}\nnothing was written"


def _kind(prepared: Prepared) -> str:
    """The kind of a recipe's index. What is in the way may be mended by steps that are to run."""
    pipeline = prepared.pipeline
    index, curated = pipeline.steps["index"].draft, pipeline.steps["curated version"].draft
    try:
        return kind_told(index, curated.url, pipeline.index)
    except SluiceError as error:
        return f"kind of index: cannot be told yet: {error.what}"


def _versions(prepared: Prepared) -> Iterator[str]:
    """A line for each version of the store that encoders learn from: which it is."""
    for name, version in prepared.pipeline.encoders.versions.items():
        which = f"{version.url.split('/')[-2]}@{version.digest}"
        yield f"{name} in pretrain: {which}, {version.totals['kept']:,} samples"


def lines(prepared: Prepared, steps: Sequence[Step]) -> list[Line]:
    """A line for each step, in order."""
    estimate = Estimate(prepared.recipe, prepared.store, prepared.pipeline.steps)
    return [line_of(step, estimate) for step in steps]


def line_of(step: Step, estimate: "Estimate") -> Line:
    """What is there of a step, or what it would cost."""
    if step.stored:
        made = stored_artifacts(step).values()
        rows = max(one.totals["rows"] or samples_seen(one.settings) for one in made)
        return Line(step.name, True, rows, None, sum(one.totals["bytes"] for one in made))
    rows = estimate.rows(step)
    rates = [estimate.rate(name, draft) for name, draft in step.drafts.items()]
    known = [rate for rate in rates if rate is not None]
    if rows is None or len(known) < len(rates):
        return Line(step.name, False, rows)
    seconds = rows * sum(rate.seconds for rate in known)
    workers = 1 if step.items is None or len(estimate.units(step)) == 1 else estimate.workers
    size = rows * sum(rate.bytes for rate in known)
    return Line(step.name, False, rows, seconds / workers, size, known[0].basis)


class Estimate:
    """What is known, measured or reckoned about the cost of the steps of one recipe."""

    def __init__(self, recipe: Recipe, store: str, steps: Mapping[str, Step]) -> None:
        self.recipe, self.store, self.steps = recipe, store, steps
        self.workers = self.recipe.run.workers or os.cpu_count() or 1

    def units(self, step: Step) -> Sequence[Item]:
        """The step's units of work, as far as they can be told before its inputs are there."""
        if step.items is None:
            return []
        try:
            return step.items()
        except SluiceError:
            return []

    def rows(self, step: Step) -> int | None:
        """How many rows (training: samples) a step will see."""
        if step.items is None:
            return samples_seen(step.draft.spec.settings)
        if step.name == "fractals" and self.recipe.synthesize.fractals:
            return self.recipe.synthesize.fractals.total
        if step.name == "evaluation":
            return (self._split_rows("evaluation") or 0) * len(self.units(step))
        if step.name == "demo corpus":
            return sum(self._split_rows(name) or 0 for name in ("pool", "trusted", "evaluation"))
        split = step.name.partition(" ")[2]
        if split.endswith(" table"):
            return None
        known = split if f"ingest {split}" in self.steps else "pool"
        return self._split_rows(known)

    def _split_rows(self, name: str) -> int | None:
        step = self.steps.get(f"ingest {name}")
        if step is None:
            return None
        if step.stored:
            return sum(artifact.totals["rows"] for artifact in stored_artifacts(step).values())
        if name == "pool" and self.recipe.data.generate:
            return self._drawn(self.recipe.data.generate)
        if self.recipe.data.demo is not None and not self.steps["demo corpus"].stored:
            settings = self.recipe.data.demo
            return sum(count for file, count in corpus.row_counts(settings).items()
                       if file.startswith(f"{name}/"))  # fmt: skip
        if name != "pool":
            return None
        if self.fetches:  # every shard but the last is full
            return len(self.units(step)) * self.recipe.data.rows_per_shard or None
        return round(self.sample.rows * len(self.units(step)))

    def _drawn(self, settings: GenerateSettings) -> int | None:
        """The images that will be drawn; None before the prompts are there."""
        made = artifacts.load(self.steps[PROMPTS].draft.url)
        return made and total(settings, made)

    @property
    def fetches(self) -> bool:
        """Whether the pool comes from the web or is drawn: a plan does neither."""
        data = self.recipe.data
        if data.generate or data.retry_failed:
            return True
        return any(source.kind == "urls" for source in data.pool)

    def rate(self, name: str, draft: Draft) -> Rate | None:
        """What a row of one artifact costs: measured, else remembered, else reckoned."""
        if draft.spec.stage == drawn.STAGE:  # a few files, of however many rows
            return Rate(0.0, 0.0, BENCHMARK)
        if draft.spec.stage in self.sample.rates:
            return self.sample.rates[draft.spec.stage]
        return self._remembered(draft.spec) or self._benchmarked(draft.spec)

    def _remembered(self, spec: Spec) -> Rate | None:
        key = rate_key(spec.stage, spec.settings)
        pattern = PLACES.get(spec.kind, "*/*/*/*")
        for url in filesystem.list_files(filesystem.join(self.store, pattern, "manifest.json")):
            artifact = artifacts.load(url.rpartition("/")[0])
            if artifact is None:
                continue
            rows = artifact.totals["rows"] or samples_seen(artifact.settings)
            if rows and rate_key(artifact.manifest["spec"]["stage"], artifact.settings) == key:
                seconds = artifact.timing().get("seconds", 0.0)
                return Rate(seconds / rows, artifact.totals["bytes"] / rows, BEFORE)
        return None

    def _benchmarked(self, spec: Spec) -> Rate | None:
        rate = self._rates.get(rate_key(spec.stage, spec.settings))
        if rate is None:
            return None
        seen = rate.get("pixels")
        larger = self._pixels / seen if seen and self._pixels else 1.0
        return Rate(rate["seconds"] * larger, rate["bytes"], BENCHMARK)

    @cached_property
    def _rates(self) -> dict[str, Any]:
        return json.loads(RATES.read_text())

    @cached_property
    def _pixels(self) -> float | None:
        """The mean size of the pool's pictures, if it can be told."""
        pool = self.steps["ingest pool"]
        return mean_pixels(pool.draft.url) if pool.stored else self.sample.pixels

    @cached_property
    def sample(self) -> "Sample":
        """One shard of the pool, ingested aside; empty where that is done."""
        if self.fetches or self.steps["ingest pool"].stored:
            return Sample(0, None, {})
        with tempfile.TemporaryDirectory(prefix="sluice-plan-") as folder:
            return self._take_sample(folder)

    def _take_sample(self, folder: str) -> "Sample":
        data, rates = self.recipe.data, {}
        sources = data.pool
        if data.demo is not None:
            draft = corpus.corpus_draft(folder, data.demo)
            if self.steps["demo corpus"].stored:
                sources = corpus.corpus_sources(
                    self.steps["demo corpus"].draft.url, data.demo, "pool"
                )
            else:
                work = corpus.CorpusWork(draft.url, data.demo)
                rates |= _measure({"": draft}, corpus.corpus_items(data.demo)[0], work)
                sources = corpus.corpus_sources(draft.url, data.demo, "pool")[:1]
        draft = ingest.ingest_draft(folder, "pool", sources, "sample", data.rows_per_shard)
        unit = ingest.ingest_items(sources, data.rows_per_shard)[0]
        rates |= _measure({"": draft}, unit, ingest.IngestWork(draft.url))
        ingested = artifacts.load(draft.url)
        rows = ingested.totals["rows"] if ingested else 0
        return Sample(rows, mean_pixels(draft.url), rates)


class VersionEstimate(Estimate):
    """The same about steps over one version that is there, however it was made."""

    def __init__(self, recipe: Recipe, store: str, count: int) -> None:
        super().__init__(recipe, store, {})
        self._count = count

    def rows(self, step: Step) -> int | None:
        return self._count

    @cached_property
    def sample(self) -> "Sample":
        return Sample(0, None, {})


def samples_seen(settings: Mapping[str, Any]) -> int:
    """The samples a training run sees; 0 for the settings of anything else."""
    return int(settings.get("steps", 0)) * int(settings.get("batch", 0))


def mean_pixels(dataset_url: str) -> float | None:
    """The mean number of pixels of the pictures of a dataset's first shard, if it has any."""
    rows = read_table(rows_url(dataset_url, 0), ["width", "height"]).drop_null()
    wide, high = (rows[name].to_numpy().astype(np.float64) for name in rows.column_names)
    return float(np.mean(wide * high)) if len(wide) else None


def rate_key(stage: str, settings: Mapping[str, Any]) -> str:
    """What decides the cost of a row: the stage, and its network and batch if it has one."""
    model = settings.get("model")
    if model is None:
        return stage
    if isinstance(model, str) and model.startswith("runs/"):  # by name, whichever run of it
        model = model.rpartition("/")[0]
    return f"{stage} {digest([model, *(settings.get(name) for name in NETWORK)])}"


@dataclass(frozen=True)
class Sample:
    """One shard done aside: its rows, a picture's mean pixels, each stage's rate by name."""

    rows: int
    pixels: float | None
    rates: dict[str, Rate]


def _measure(drafts: dict[str, Draft], item: Item, work: Work) -> dict[str, Rate]:
    start = time.process_time()
    made = run_stage("sample", drafts, [item], work, InlineRunner(), SilentDisplay())
    seconds = (time.process_time() - start) / len(made)
    return {
        drafts[name].spec.stage: Rate(
            seconds / max(artifact.totals["rows"], 1),
            artifact.totals["bytes"] / max(artifact.totals["rows"], 1),
            MEASURED,
        )
        for name, artifact in made.items()
    }


def size(count: float) -> str:
    """3200000 -> "3.2 MB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def show(title: str, store: str, found: Sequence[Line]) -> str:
    """The table, its sum, and what could not be told."""
    header: tuple[str, ...] = ("step", "state", "rows", "size", "time", "known from")
    table: list[tuple[str, ...]] = [header]
    for line in found:
        table.append(
            (
                line.step,
                "in the store" if line.stored else "to do",
                "?" if line.rows is None else f"{line.rows:,}",
                "?" if line.bytes is None else size(line.bytes),
                "-" if line.stored else "?" if line.seconds is None else duration(line.seconds),
                line.basis,
            )
        )
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table]  # fmt: skip
    text.insert(1, "  ".join("-" * width for width in widths))
    todo = [line for line in found if not line.stored]
    unknown = [line.step for line in todo if line.seconds is None]
    seconds = sum(line.seconds or 0 for line in todo)
    free = filesystem.free_bytes(store)
    total = f"to do: {len(todo)} of {len(found)} steps"
    if todo:
        total += (
            f", about {duration(seconds)} of work, {size(sum(line.bytes or 0 for line in todo))}"
        )
    if free is not None:
        total += f"; {size(free)} are free"
    if unknown:
        total += f"\nnot reckoned: {', '.join(unknown)}"
    return "\n".join([f"{title} in {store}", "", *text, "", total])
