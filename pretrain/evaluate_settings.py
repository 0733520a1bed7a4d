"""Settings of the evaluation of encoders. Light: read with the recipe, without PyTorch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Task = Literal["zero_shot", "knn", "linear_probe"]


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


class EvaluateSettings(BaseModel):
    """What every encoder is asked, and how sure the answers are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: tuple[Task, ...] = Field(
        ("zero_shot", "knn", "linear_probe"),
        min_length=1,
        description="zero_shot is for encoders with a text tower",
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
    neighbours: int = Field(20, ge=1, description="k of knn")
    temperature: float = Field(0.07, gt=0, description="of knn's votes: exp(cosine / temperature)")
    strengths: tuple[float, ...] = Field(
        (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        min_length=1,
        description="C of linear_probe, inverse L2 strength; chosen on a fifth of the train split",
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
