"""What a teacher is asked about the samples of a dataset version. Light."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pretrain.declare import Range, Settings

TIMM = "timm:"
MOST_CLASSES = 2**16  # a class is stored in two bytes


class TeacherSettings(Settings):
    """A network that teaches."""

    network: str = Field(
        description="a finished run's folder, with its classifier where it has one; a CLIP run's, "
        "or another folder of open_clip, which tells `classes` by prompts; or timm:<name>"
    )
    weights: str | None = Field(
        None,
        description="timm: a file of safetensors, or a folder with model.safetensors; unset: the "
        "weights that timm has for this name",
    )
    kwargs: dict[str, Any] = Field({}, description="timm: arguments of timm.create_model")
    image_size: int | None = Field(
        None, gt=0, description="timm: pixels of a side; unset: what the weights were made for"
    )

    @model_validator(mode="after")
    def _of_timm(self) -> "TeacherSettings":
        if not self.network.startswith(TIMM) and (self.weights or self.kwargs or self.image_size):
            raise ValueError("weights, kwargs and image_size are of timm:<name> alone")
        return self


Name = Annotated[str, Field(min_length=1)]


class ReinforceSettings(Settings):
    """Dataset Reinforcement, Faghri et al. 2023 (arXiv:2303.08983); output map: ReLabel, Yun et al.
    2021 (arXiv:2101.05022).
    """

    teachers: tuple[TeacherSettings, ...] = Field(
        min_length=1,
        description="several: the mean of their probabilities (or scores of a map) is stored",
    )
    output: Literal["probabilities", "map", "vectors"] = Field(
        "probabilities",
        description="probabilities of the likeliest classes for each view; a map of scores by "
        "place, of the whole image; or vectors for each view, as the network has them before its "
        "classifier",
    )
    classes: tuple[Name, ...] = Field(
        (),
        description="names of the classes, in order: those of a run are known, and must be these; "
        "timm networks have numbers without them, CLIP is asked for them",
    )
    templates: tuple[str, ...] = Field(
        ("a photo of a {}.",), min_length=1, description="CLIP: prompts, {} being a class"
    )
    label: str | None = Field(
        None,
        description="field of the samples' JSON whose classes the teacher is to know, checked "
        "before it is asked; unset: labels are not looked at",
    )
    views: int = Field(8, gt=0, le=10_000, description="stored for each image; 400 as published")
    top: int = Field(10, gt=0, le=1000, description="classes stored; 10 as published, 5 of a map")
    crop_scale: Range = Field((0.08, 1.0), description="area share of a view's crop")
    flip: float = Field(0.5, ge=0, le=1, description="chance of a mirrored view")
    jitter: float = Field(0.0, ge=0, le=1, description="strength of the colour jitter")
    jitter_chance: float = Field(0.8, ge=0, le=1)
    grey: float = Field(0.0, ge=0, le=1, description="chance of a view without colour")
    blur: float = Field(0.0, ge=0, le=1, description="chance of a blurred view")
    solarize: float = Field(0.0, ge=0, le=1, description="chance of inverted bright pixels")
    canvas: int | None = Field(
        None,
        gt=0,
        description="pixels of the square that images are decoded to; unset: 1.5 times the largest "
        "teacher's. A student of the same canvas and image size is given the teacher's very pixels",
    )
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where one is")

    @field_validator("crop_scale")
    @classmethod
    def _is_a_share(cls, value: Range) -> Range:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError(f"crop_scale is {value}: give two rising shares above 0 and up to 1")
        return value

    @field_validator("classes")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value) or len(value) == 1 or len(value) > MOST_CLASSES:
            raise ValueError(f"two to {MOST_CLASSES} classes, each named once")
        return value

    @model_validator(mode="after")
    def _vectors_are_of_one(self) -> "ReinforceSettings":
        if self.output == "vectors" and len(self.teachers) > 1:
            raise ValueError("vectors of several networks have no mean: name one teacher")
        return self
