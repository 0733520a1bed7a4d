"""A recipe: one YAML file that says everything a run does, as typed settings."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from curation.fetch.blocklist_settings import BlocklistSettings
from curation.fetch.settings import FetchSettings
from curation.generate.settings import GenerateSettings
from curation.resize_settings import ResizeSettings
from curation.rules_settings import ContaminationSettings, DedupSettings, Reason, RuleSettings
from curation.scores.settings import SampleScoreSettings, ScoreName, ScoreSettings
from curation.selection.settings import SelectionSettings
from curation.settings import SourceSettings
from curation.synthetic.settings import FractalSettings
from flows.demo.settings import CorpusSettings
from flows.settings import load_yaml, merge, override, validate
from flows.versions import HOW, is_version
from indexes.settings import IndexSettings
from infra.errors import SluiceError
from infra.ray_jobs import is_dashboard
from infra.runner import Runner, make_runner
from pretrain.evaluate_settings import EvaluateSettings
from pretrain.mix import Weight, fault
from pretrain.pair_options import ORIGINAL
from pretrain.reinforce_settings import ReinforceSettings
from pretrain.settings import TrainSettings

RECIPES = Path(__file__).parent / "recipes"
DEFAULT = "curate-and-pretrain"


Seeded = TypeVar("Seeded", bound=BaseModel)


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSettings(_Settings):
    """Where samples come from: the built-in demo corpus, or sources of one's own."""

    demo: CorpusSettings | None = Field(None, description="make the built-in corpus of real images")
    pool: tuple[SourceSettings, ...] = Field((), description="what is to be curated")
    trusted: tuple[SourceSettings, ...] = Field(
        (), description="a small clean split: trains the filter network, bank of the evaluation"
    )
    evaluation: tuple[SourceSettings, ...] = Field(
        (), description="held out: nothing like it may stay in the curated version"
    )
    held_out: dict[Reason, tuple[SourceSettings, ...]] = Field(
        default_factory=dict,
        description="further evaluation sets by name, looked for in the pool like `evaluation`",
    )
    canaries: str | None = Field(
        None, description="Parquet of planted defects (uid, defect, twin_uid), for the report alone"
    )
    rows_per_shard: int = Field(512, gt=0, le=2**20, description="rows of a shard, where we cut")
    fetch: FetchSettings = Field(
        FetchSettings.model_validate({}), description="how the images of URL tables are fetched"
    )
    blocklists: BlocklistSettings = Field(
        BlocklistSettings.model_validate({}), description="what is never written"
    )
    resize: ResizeSettings | None = Field(
        None, description="what becomes of images on the way in; without it their bytes are kept"
    )
    retry_failed: str | None = Field(
        None,
        description="version of the pool (NAME@VERSION, or latest) in place of `pool`: its "
        "transient failures are fetched again, all else is kept where it is",
    )

    generate: GenerateSettings | None = Field(
        None,
        description="images that a text-to-image pipeline draws, in place of `pool`; with `demo`, "
        "in place of the demo's",
    )

    @model_validator(mode="after")
    def _one_origin(self) -> "DataSettings":
        demo = self.demo and not self.generate
        if sum(map(bool, (demo, self.pool, self.retry_failed, self.generate))) != 1:
            raise ValueError("give one of `demo`, `pool`, `retry_failed` and `generate`")
        if taken := {"pool", "trusted", "evaluation", "curated", "fractals"} & set(self.held_out):
            raise ValueError(f"`held_out` cannot name a set {sorted(taken)[0]!r}: choose another")
        return self


DatasetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]


class FilterSettings(_Settings):
    """The CLIP that scores pairs: a given one, or a small one trained on the trusted split.

    The second is the data filtering network of Fang et al. 2023 (arXiv:2309.17425).
    """

    model: str | None = Field(None, description="open_clip name, or folder of a saved model")
    pretrained: str | None = Field(None, description="open_clip tag or checkpoint path for `model`")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of the network when it embeds; auto: bfloat16 where the machine that plans "
        "the run has a GPU with it, else float32. The scores' digest names what was used",
    )
    train: TrainSettings | None = Field(None, description="used where `model` is not given")
    references: int = Field(256, gt=0, description="trusted captions a caption is compared with")

    @model_validator(mode="after")
    def _some_model(self) -> "FilterSettings":
        if self.model is None and self.train is None:
            raise ValueError("give `model`, or `train` to train a filter network")
        return self


class CurateSettings(_Settings):
    """Which samples stay: rules over score columns in order, then deduplication."""

    scores: dict[ScoreName, ScoreSettings] = Field(
        default_factory=dict, description="scores beside those every version has, by name"
    )
    rules: tuple[RuleSettings, ...] = Field(description="the first that fails is the reason")
    dedup: DedupSettings = DedupSettings.model_validate({})
    contamination: ContaminationSettings = ContaminationSettings.model_validate({})
    selection: SelectionSettings | None = Field(
        None, description="which of the rows that stay are selected; without it all are"
    )
    publish: DatasetName = Field(
        "curated", description="the dataset of the store that what stays is a version of"
    )

    @model_validator(mode="after")
    def _reasons_differ(self) -> "CurateSettings":
        plan = self.selection.plan if self.selection else ()
        rules = {rule.reason for rule in self.rules}
        for reason in (selector.reason for selector in plan):
            if reason in rules:
                raise ValueError(f"a rule and a selector are called {reason!r}: rename one")
        if self.publish in ("pool", "trusted", "evaluation", "fractals"):
            raise ValueError(f"publish cannot be {self.publish!r}: that is another dataset")
        return self


class SynthesizeSettings(_Settings):
    """Sources that are made from settings alone."""

    fractals: FractalSettings | None = Field(
        None, description="images of fractals, a source of `pretrain` by this name"
    )


class TeacherAnnotation(ReinforceSettings):
    """Outputs of a teacher for stored views, which a student learns from."""

    kind: Literal["reinforce"]

    @property
    def asked(self) -> ReinforceSettings:
        """What the teacher is asked, as `python -m pretrain reinforce` has it."""
        return ReinforceSettings.model_validate(self.model_dump(exclude={"kind"}))


AnnotateSettings = SampleScoreSettings | TeacherAnnotation


class EncoderSettings(_Settings):
    """One training run: what it learns from, and how."""

    sources: dict[str, Weight] = Field(
        description="share of each dataset in the samples seen: curated, pool, fractals, trusted, "
        f"or any version of the store as {HOW}; [[0, 1], [0.5, 0]] for one that changes in lines "
        "over the run, here from 1 to 0 in its first half"
    )
    train: TrainSettings

    @field_validator("sources")
    @classmethod
    def _some(cls, sources: dict[str, Weight]) -> dict[str, Weight]:
        if wrong := fault(list(sources.values())):
            raise ValueError(wrong)
        return sources


class ExecutionSettings(_Settings):
    """Where the work runs; it never changes what comes out."""

    executor: Literal["ray", "local", "inline"] = Field("ray", description="who runs the work")
    workers: int = Field(
        0, ge=0, description="0: one per processor, of a cluster as many as it has at any time"
    )
    address: str = Field(
        "local",
        description="of a Ray cluster; local starts one here. http://HOST:8265, the dashboard's: "
        "each step is a job there, which outlives this process, and a command without steps "
        "(takedown, verify, export) works in processes here. HOST:6379, Ray's own, or auto: "
        "this process, on a node of the cluster, drives the work",
    )
    deadline: float = Field(
        86_400, gt=0, description="seconds that a step may take as a job; it is stopped then"
    )
    price: float | None = Field(
        None, ge=0, description="of all its machines, an hour: the page of the run tells the cost"
    )
    metrics: str | None = Field(
        None, description="HOST:PORT at which Prometheus finds the run's metrics while it goes on"
    )
    traces: bool = Field(
        False, description="send OpenTelemetry traces to where OTEL_EXPORTER_OTLP_ENDPOINT says"
    )
    events: str | None = Field(
        None, description="a file that takes every event as a line of JSON; - is standard error"
    )
    cache: str = Field(
        "",
        description="of shards of remote stores, on this machine: FOLDER:SIZE, such as "
        "/nvme/sluice:200GB; else $SLUICE_CACHE says so",
    )

    @property
    def takes_jobs(self) -> bool:
        """Whether the address is a dashboard's: the cluster takes steps as jobs."""
        return self.executor == "ray" and is_dashboard(self.address)

    def runner(self) -> Runner:
        """For a command without steps; where the cluster takes only jobs, processes here."""
        if self.takes_jobs:
            return make_runner("local", 0)
        return make_runner(self.executor, self.workers, self.address)


class Recipe(_Settings):
    """Everything a run does. Two runs of equal recipes on equal data give equal bytes."""

    name: str = Field(description="of the recipe, shown in reports")
    seed: int = Field(0, description="added to the seed of every stage that has one")
    data: DataSettings
    filter: FilterSettings
    curate: CurateSettings
    index: IndexSettings = IndexSettings.model_validate({})
    synthesize: SynthesizeSettings = SynthesizeSettings.model_validate({})
    annotate: dict[ScoreName, Annotated[AnnotateSettings, Field(discriminator="kind")]] = Field(
        default_factory=dict,
        description="columns made of the curated version alone, by name, such as captions: what "
        "runs of `pretrain` read where their options name them",
    )
    pretrain: dict[str, EncoderSettings] = Field(default_factory=dict)
    mix: dict[str, Weight] = Field(
        {"curated": 1.0},
        description="what a race trains on: shares of `curated`, of other entrants by their "
        f"labels, and of versions as {HOW}; of its raw pool in place of `curated`",
    )
    evaluate: EvaluateSettings = EvaluateSettings.model_validate({})
    run: ExecutionSettings = ExecutionSettings.model_validate({})

    @field_validator("annotate")
    @classmethod
    def _is_no_original(cls, annotate: dict[str, AnnotateSettings]) -> dict[str, AnnotateSettings]:
        if ORIGINAL in annotate:
            raise ValueError(f"{ORIGINAL!r} are the samples' own: choose another name")
        return annotate

    @model_validator(mode="after")
    def _sources_exist(self) -> "Recipe":
        known = {"curated", "pool"}
        if self.data.demo or self.data.trusted:
            known.add("trusted")
        if self.synthesize.fractals:
            known.add("fractals")
        for name, run in self.pretrain.items():
            for source in run.sources:
                if source not in known and not is_version(source):
                    raise ValueError(
                        f"pretrain.{name}.sources names {source!r}, "
                        f"there is {', '.join(sorted(known))}; "
                        f"any version of the store can be named as {HOW}"
                    )
        if wrong := fault(list(self.mix.values())):
            raise ValueError(wrong)
        if self.filter.model is None and "trusted" not in known:
            raise ValueError(
                "a filter network needs data.trusted to train on; or give filter.model"
            )
        return self

    def seeded(self, settings: Seeded) -> Seeded:
        """A stage's settings, whose own seed, if they have one, counts from the recipe's."""
        own: int | None = getattr(settings, "seed", None)
        return settings if own is None else settings.model_copy(update={"seed": self.seed + own})


def find_recipe(name: str | None) -> Path:
    """A file of that path, else the recipe of that name in flows/recipes/."""
    path = Path(name or DEFAULT)
    if path.is_file():
        return path
    own = RECIPES / f"{path.name.removesuffix('.yaml')}.yaml"
    if own.is_file() and path.parent == Path():
        return own
    there = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
    raise SluiceError(f"no recipe {name!r}", f"give a file, or one of: {there}")


def read_recipe(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The mapping in a recipe file, laid over that of the recipe it `extends`, if any."""
    if path in seen:
        raise SluiceError(f"{path} extends itself", "remove one `extends`")
    return lay(load_yaml(path), path.parent, (*seen, path))


def lay(value: dict[str, Any], folder: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe's mapping laid over that which it `extends`, of `folder` or by name."""
    value = dict(value)
    base = value.pop("extends", None)
    if base is None:
        return value
    beside = folder / str(base)
    return merge(read_recipe(beside if beside.is_file() else find_recipe(str(base)), seen), value)


def load_recipe(name: str | None = None, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe of a file or a name, with `path.to.key=value` overrides, validated."""
    path = find_recipe(name)
    return validate(Recipe, override(read_recipe(path), overrides), str(path))
