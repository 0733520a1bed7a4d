"""Settings of the evaluation of encoders. Light: read with the recipe, without PyTorch."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pretrain.declare import Settings

Task = Literal[
    "zero_shot",
    "zero_shot_descriptions",
    "knn",
    "linear_probe",
    "few_shot",
    "retrieval",
    "calibration",
    "multi_label",
    "out_of_distribution",
    "robustness",
]
CLASSES: tuple[Task, ...] = ("zero_shot", "zero_shot_descriptions", "knn", "linear_probe")
"""Tasks that name a class for every sample: of these are accuracies and paired comparisons."""

Corruption = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "motion_blur",
    "zoom_blur",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
]


class Comparison(BaseModel):
    """Two ways to train, compared on the same test samples.

    One pair gets a bootstrap interval over the samples. Several pairs (one for each seed) also
    get the mean of their differences with Student's t interval over the pairs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="what is compared, as the report shows it")
    pairs: tuple[tuple[str, str], ...] = Field(
        min_length=1, description="encoders [a, b]: the difference is a - b"
    )


class EvaluateSettings(Settings):
    """What every encoder is asked, and how sure the answers are."""

    LATER: ClassVar[frozenset[str]] = frozenset(
        {
            "descriptions",
            "shots",
            "draws",
            "captions",
            "recalls",
            "bins",
            "labels",
            "outside",
            "corruptions",
            "severities",
            "corrupted",
        }
    )

    tasks: tuple[Task, ...] = Field(
        ("zero_shot", "knn", "linear_probe"),
        min_length=1,
        description="zero_shot... and retrieval are for encoders with a text tower",
    )
    label: str = Field("concept", min_length=1, description="field of a row's meta: its class")
    templates: tuple[str, ...] = Field(
        (
            "a photo of {}.",
            "a picture of {}.",
            "an image of {}.",
            "{}",
            "a small picture of {}.",
            "a close-up of {}.",
            "this is {}.",
        ),
        min_length=1,
        description="prompts of zero_shot; {} stands for the class's name",
    )
    descriptions: dict[str, tuple[str, ...]] = Field(
        {},
        description="for zero_shot_descriptions: sentences on what each class looks like; {} "
        "stands for the class's name",
    )
    neighbours: int = Field(
        20, ge=1, description="k of knn; out_of_distribution takes the distance to the k-th"
    )
    temperature: float = Field(0.07, gt=0, description="of knn's votes: exp(cosine / temperature)")
    strengths: tuple[float, ...] = Field(
        (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        min_length=1,
        description="C of linear_probe, inverse L2 strength; chosen on a fifth of the train split",
    )
    shots: tuple[int, ...] = Field(
        (1, 5, 10), min_length=1, description="samples of each class that few_shot learns from"
    )
    draws: int = Field(10, ge=2, description="random choices of these samples")
    captions: str = Field(
        "captions",
        description="for retrieval: field of a row's meta with a list of captions; where a row has "
        "none, its one caption counts",
    )
    recalls: tuple[int, ...] = Field((1, 5, 10), min_length=1, description="K of recall at K")
    bins: int = Field(
        15, ge=2, description="of equal width, for the calibration error (15 in Guo et al. 2017)"
    )
    labels: str = Field(
        "labels", min_length=1, description="for multi_label: field with a list of classes"
    )
    outside: str = Field(
        "",
        description="for out_of_distribution: a version of other classes, as NAME@VERSION, as an "
        "evaluation set of the recipe, or as the URL of a version or of Parquet with image bytes",
    )
    corruptions: tuple[Corruption, ...] = Field(
        get_args(Corruption), min_length=1, description="of robustness"
    )
    severities: tuple[int, ...] = Field(
        (1, 2, 3, 4, 5), min_length=1, description="of each corruption: 1 is mild, 5 severe"
    )
    corrupted: int = Field(
        1000, ge=0, description="test samples that are corrupted, spread evenly; 0: all of them"
    )
    pixels: int = Field(16, ge=4, le=64, description="side of the raw-pixel baseline's images")
    resamples: int = Field(1000, ge=100, description="bootstrap resamples of the test split")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the intervals")
    compare: tuple[Comparison, ...] = Field((), description="differences to report")
    seed: int = Field(0, ge=0, description="of random weights, folds and resamples")

    @field_validator("templates")
    @classmethod
    def _has_place(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
                raise ValueError(f"template {template!r} needs one {{}} for the class's name")
        return templates

    @field_validator("strengths")
    @classmethod
    def _positive(cls, strengths: tuple[float, ...]) -> tuple[float, ...]:
        if min(strengths) <= 0:
            raise ValueError("strengths must be above 0")
        return tuple(sorted(strengths))

    @field_validator("shots", "recalls", "severities")
    @classmethod
    def _counts(cls, counts: tuple[int, ...]) -> tuple[int, ...]:
        if min(counts) < 1:
            raise ValueError("counts start at 1")
        return tuple(sorted(set(counts)))

    @field_validator("severities")
    @classmethod
    def _known(cls, severities: tuple[int, ...]) -> tuple[int, ...]:
        if max(severities) > 5:
            raise ValueError("severities are 1 to 5")
        return severities

    @field_validator("descriptions")
    @classmethod
    def _some(cls, descriptions: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, sentences in descriptions.items():
            if not sentences or not all(sentence.strip() for sentence in sentences):
                raise ValueError(f"class {name!r} has no description, or an empty one")
        return descriptions

    @model_validator(mode="after")
    def _given(self) -> "EvaluateSettings":
        if "zero_shot_descriptions" in self.tasks and not self.descriptions:
            raise ValueError("task zero_shot_descriptions needs `descriptions` of the classes")
        if "out_of_distribution" in self.tasks and not self.outside:
            raise ValueError("task out_of_distribution needs `outside`, another dataset version")
        return self

    def identity(self) -> dict[str, Any]:
        """All settings as JSON, without the later ones that stand at their default."""
        return self.model_dump(mode="json", exclude=self.unsaid())


class OnlineSettings(EvaluateSettings):
    """What a run is asked while it trains, and on which samples."""

    train: str = Field(
        "trusted",
        min_length=1,
        description="bank and training set of the tasks: a split of the recipe, a version of the "
        "run's store as NAME or NAME@VERSION, or the URL of a version or of Parquet with image "
        "bytes",
    )
    test: str = Field("evaluation", min_length=1, description="the samples asked about, likewise")
    tasks: tuple[Task, ...] = Field(
        ("knn",), min_length=1, description="those that the encoder cannot do are left out"
    )

    @model_validator(mode="after")
    def _one_encoder(self) -> "OnlineSettings":
        if self.compare:
            raise ValueError("a run is asked alone: `compare` is of `prefect run evaluate`")
        return self

    @property
    def places(self) -> dict[str, str]:
        """Where its samples are, by the field that says so."""
        found = {"train": self.train, "test": self.test}
        return found | ({"outside": self.outside} if self.outside else {})

    def placed(self, places: Mapping[str, str]) -> "OnlineSettings":
        """The same about samples elsewhere, by the fields of `places`."""
        return self.model_copy(update=dict(places))
