"""Build a searchable index over one embedding of a dataset version, in three stages.

<store>/<dataset>/<version>/quantizer/<digest>/    trained once, on a sample: indexes.quantizer
<store>/<dataset>/<version>/codes/<digest>/        every shard, encoded apart: indexes.codes
<store>/<dataset>/<version>/index/<digest>/        merged, measured: indexes.merge, indexes.files
<store>/<dataset>/<version>/index/latest.json      which index `indexes.open` opens

Its figures (kind, probes, recall against brute force) are in its manifest; how long a query takes,
which no two runs agree on, is beside it, in latency.json.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from threadpoolctl import threadpool_limits

from indexes import codes, quantizer
from indexes.embeddings import (
    Embedding,
    all_scores_of,
    open_version,
    scores_of,
    vectors_of,
)
from indexes.files import IDS, LATEST, array_of, open_files, smoke_search
from indexes.kinds import KINDS
from indexes.lookup import Lookup
from indexes.measure import TARGET, latency, measure, queries_of
from indexes.merge import (
    Codes,
    check_lists,
    dropped_of,
    write_graph,
    write_header,
    write_ids,
    write_lists,
)
from indexes.metadata import write_columns
from indexes.origin import origin_of, place_in_store
from indexes.quantizer import open_quantizer
from indexes.settings import IndexSettings
from infra import artifacts, filesystem
from infra.artifacts import Artifact, Part, Spec
from infra.dataset import Dataset
from infra.digests import canonical_json
from infra.errors import SluiceError
from infra.filesystem import FilePart, join
from infra.progress import Display
from infra.runner import Runner, own_processors
from infra.stage import Draft, Item, Work, run_stage

STAGE = "indexes.build"
CODE = 4  # raised when the same vectors give other files
PART = "index"
LATENCY = "latency.json"


@dataclass(frozen=True)
class Stage:
    """One of the stages, with its inputs bound. gpu: it uses one where there is one."""

    name: str
    draft: Draft
    items: Callable[[], Sequence[Item]]
    work: Work
    gpu: bool = False


def stages(dataset_url: str, dataset_digest: str, settings: IndexSettings) -> list[Stage]:
    """The stages of an index of a dataset version, each after what it needs; no data is read."""
    origin = origin_of(dataset_url, dataset_digest, settings)
    removed = origin.removed
    coded = codes.codes_draft(
        dataset_url, dataset_digest, origin.quantizer_digest, settings, removed
    )
    named = settings.model_dump(mode="json", exclude={"publish_below_target"})
    spec = Spec("index", STAGE, named, (dataset_digest, coded.spec.digest), CODE)
    index = Draft(join(dataset_url, "index", spec.digest), spec)
    encoding = codes.CodesWork(
        coded.url,
        dataset_url,
        origin.quantizer_url,
        settings.embedding,
        tuple(url for url in origin.codes_urls if url != coded.url),
        removed,
    )
    merging = IndexWork(index.url, dataset_url, origin.quantizer_url, coded.url, settings)
    found = [
        Stage("index codes", coded, codes.codes_items(dataset_url), encoding, gpu=True),
        Stage("index", index, index_items, merging),
    ]
    if origin.trained is not None:
        training = quantizer.QuantizerWork(origin.trained.url, dataset_url, settings)
        found.insert(
            0,
            Stage("index quantizer", origin.trained, quantizer.quantizer_items, training),
        )
    return found


def index_draft(dataset_url: str, dataset_digest: str, settings: IndexSettings) -> Draft:
    """The index of a dataset version; its embedding is named by `settings`."""
    return stages(dataset_url, dataset_digest, settings)[-1].draft


def index_items() -> list[Item]:
    """Merging is one unit of work."""
    return [Item(PART, None)]


def build_index(
    dataset: Dataset, settings: IndexSettings, runner: Runner, display: Display
) -> Artifact:
    """Build the index of a dataset version, or find it, and publish it if it is good enough."""
    made: dict[str, Artifact] = {}
    for stage in stages(dataset.url, dataset.artifact.digest, settings):
        drafts, items = {"": stage.draft}, stage.items()
        made = run_stage(stage.name, drafts, items, stage.work, runner, display, gpu=stage.gpu)
    publish(made[""], settings)
    return made[""]


def pinned(dataset: Dataset, settings: IndexSettings) -> IndexSettings:
    """The settings with the one score folder that the embedding's scorer has, by name.

    A version that was scored itself may be scored again, after which the scorer's name alone
    would mean two; a curated one says whose scores are its own.
    """
    scorer, _, vector = settings.embedding.partition("/")
    folders = [] if scores_of(dataset)[1] else all_scores_of(dataset)[1].get(scorer, [])
    if len(folders) != 1:
        return settings
    return settings.model_copy(update={"embedding": f"{folders[0]}/{vector}"})


@dataclass(frozen=True)
class IndexWork:
    """Merges, checks and measures the index at `url`."""

    url: str
    dataset_url: str
    quantizer_url: str
    codes_url: str
    settings: IndexSettings

    def __call__(self, value: Any, todo: Sequence[str]) -> Mapping[str, Part]:
        dataset, trained = open_version(self.dataset_url), open_quantizer(self.quantizer_url)
        coded = artifacts.load(self.codes_url)
        if coded is None:
            raise SluiceError(f"there are no codes at {self.codes_url}", "run `prefect run index`")
        parts, embedding = Codes(coded), vectors_of(dataset, self.settings.embedding)
        files = {file.path: file for file in self._merged(parts, embedding)}
        truths = ((int(name), parts.array("truth", name)) for name in parts.names)
        with ThreadPoolExecutor(1) as beside:  # while another process searches the new index
            asked = beside.submit(queries_of, trained, truths, embedding)
            lookup = self._opened(files, parts, embedding)
            queries = asked.result()
        with threadpool_limits(own_processors()):
            measured = measure(lookup, queries, self.settings.recall_target)
        figures = {**lookup.figures, **measured}
        timed = Lookup(lookup.index, lookup.ids, embedding, figures)
        times = canonical_json(latency(timed, queries))
        filesystem.write_bytes(self.url, LATENCY, times)
        size = sum(file.bytes for file in files.values())
        extra = {**figures, "bytes_per_vector": round(size / max(parts.count, 1), 1)}
        rows, dropped = dropped_of(parts.parts)
        columns = write_columns(self.url, coded.url, parts.parts)
        whole = Part(PART, (*files.values(), columns), rows, parts.count, dropped, extra)
        return {"": whole}

    def _merged(self, parts: Codes, embedding: Embedding) -> list[FilePart]:
        trained = open_quantizer(self.quantizer_url)
        if not parts.count:
            raise SluiceError(
                f"{self.dataset_url} has no kept row with a vector {embedding.name}",
                "look at the report's funnel: the rules may drop everything",
            )
        files = [write_ids(parts, self.url)]
        if trained.cells is not None:
            source = artifacts.load(self.quantizer_url)
            assert source is not None
            files += [write_header(source, self.url), *write_lists(parts, trained, self.url)]
            check_lists(parts, trained, embedding, self.url)
        elif KINDS[trained.figures["kind"]].new is not None:
            files.append(write_graph(parts, trained, embedding, self.url))
        return files

    def _opened(self, files: dict[str, FilePart], parts: Codes, embedding: Embedding) -> Lookup:
        """The written index, once another process has searched it."""
        facts = dict(open_quantizer(self.quantizer_url).figures)
        kind = KINDS[facts["kind"]]
        index = None
        if kind.new is not None:
            smoke_search(self.url, int(facts["indexed_dimensions"]), parts.count, files)
            index = open_files(self.url, files)
        figures = {
            "embedding": embedding.name,
            **{name: facts[name] for name in ("kind", "why", "lists", "dimension")},
            "indexed_dimensions": facts["indexed_dimensions"],
            "lossy": kind.lossy or facts["indexed_dimensions"] < facts["dimension"],
            "vectors": parts.count,
            "quantizer": place_in_store(self.quantizer_url),
            "codes": parts.artifact.digest,
        }
        return Lookup(index, array_of(join(self.url, IDS), "<i8"), embedding, figures)


def figures_of(artifact: Artifact) -> dict[str, Any]:
    """Kind and why, lists, probes, recall by k and kind of query, bytes a vector; latency."""
    (part,) = [part for part in artifact.parts if part.name == PART]
    url = artifact.path(LATENCY)
    times = filesystem.read_json(url) if filesystem.exists(url) else {}
    return {**part.extra, "milliseconds": times}


def publish(artifact: Artifact, settings: IndexSettings) -> None:
    """Make an index the one that is opened; SluiceError for one below its recall target."""
    figures = figures_of(artifact)
    short = {
        kind: recall for kind, recall in figures[TARGET].items() if recall < settings.recall_target
    }
    folder = artifact.url.rpartition("/")[0]
    if short and not settings.publish_below_target:
        found = ", ".join(f"{kind} {recall:.4f}" for kind, recall in short.items())
        raise SluiceError(
            f"the index {artifact.url} is not published: its {TARGET} ({found}) is below the "
            f"target of {settings.recall_target}",
            "set index.publish_below_target=true to publish it as it is, lower "
            "index.recall_target, or choose another index.kind",
        )
    named = canonical_json({"digest": artifact.digest})
    filesystem.write_bytes(folder, LATEST, named)
    filesystem.remove_empty(join(folder, filesystem.TEMPORARY))
