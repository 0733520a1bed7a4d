"""Settings of generated images. Light: imports no engine."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from curation.scores.settings import TEMPLATES
from curation.settings import SourceSettings

TRUSTED = "trusted"  # as `prompts.captions`: the recipe's own trusted split
LONGEST = 2000  # characters of a prompt
OWN_ARGUMENTS = frozenset(  # of a pipeline's call, that have a setting of their own or are fixed
    {
        "prompt", "negative_prompt", "guidance_scale", "num_inference_steps", "height", "width",
        "generator", "latents", "output_type", "return_dict", "num_images_per_prompt",
    }
)  # fmt: skip


Side = Annotated[int, Field(ge=8, le=8192)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PromptSettings(_Settings):
    """What is to be drawn. Several kinds are taken one after the other; each prompt once."""

    classes: tuple[str, ...] = Field((), description="names of classes, put into `templates`")
    templates: tuple[str, ...] = Field(
        TEMPLATES, min_length=1, description="sentences with {} where a class's name goes"
    )
    captions: str | None = Field(
        None, description="the captions of a version: NAME@VERSION, NAME@latest, or `trusted`"
    )
    sources: tuple[SourceSettings, ...] = Field((), description="the captions of these sources")
    file: str | None = Field(None, description="a UTF-8 text file, a prompt a line, on any URL")
    label: str = Field(
        "concept", min_length=1, description="field of a row's meta: its class, where one is known"
    )
    limit: int | None = Field(
        None, gt=0, description="at most so many prompts: those of lowest SHA-256"
    )

    @field_validator("classes")
    @classmethod
    def _named(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        for name in classes:
            if not name.strip() or len(name) > LONGEST:
                raise ValueError(f"a class has 1 to {LONGEST} characters, not {name[:50]!r}")
        return classes

    @field_validator("templates")
    @classmethod
    def _has_place(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if template.count("{}") != 1:
                raise ValueError(f"template {template!r} needs one {{}} for the class's name")
        return templates

    @model_validator(mode="after")
    def _some(self) -> "PromptSettings":
        if not (self.classes or self.captions or self.sources or self.file):
            raise ValueError("give prompts: `classes`, `captions`, `sources` or `file`")
        return self


class GenerateSettings(_Settings):
    """Images that a diffusers pipeline draws of prompts, the pool of a recipe.

    guidance_scale and steps have no default: they decide what the images are worth for training,
    and what is right differs from model to model (Fan et al. 2024, arXiv:2312.04567, publish CLIP
    models trained on images of a scale of 1.5, far below the 7.5 that people like to look at).
    """

    model: str = Field(
        min_length=1, description="folder of a diffusers pipeline, or hf-hub:OWNER/NAME"
    )
    revision: str | None = Field(None, description="of the hub's repository: branch, tag, commit")
    variant: str | None = Field(None, description="of the weight files, such as fp16")
    prompts: PromptSettings
    negative_prompt: str = Field("", max_length=LONGEST, description="what is not to be seen")
    guidance_scale: float | None = Field(
        ge=0, le=100, description="of classifier-free guidance; null: the pipeline takes none"
    )
    steps: int = Field(gt=0, le=1000, description="denoising steps of an image")
    scheduler: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9]+$",
        description="diffusers' class in place of the pipeline's own, such as DDIMScheduler",
    )
    size: tuple[Side, Side] | None = Field(
        None, description="width and height in pixels; null: the pipeline's own"
    )
    options: dict[str, bool | int | float | str] = Field(
        default_factory=dict,
        description="what this pipeline alone takes in its call, such as true_cfg_scale",
    )
    images_per_prompt: int = Field(1, ge=1, le=1_000_000, description="images of each prompt")
    seed: int = Field(0, ge=0, description="with a prompt and a number, it decides the noise")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="of the networks; auto: bfloat16 where the machine that plans the run has a "
        "GPU with it, else float32",
    )
    chunk: int = Field(
        4, ge=1, le=256, description="images drawn at once, always; halved where memory is short"
    )
    safety: bool = Field(
        True,
        description="on: what the pipeline's own safety checker flags is rejected, and a pipeline "
        "without one is refused; off: nothing is checked",
    )
    format: Literal["png", "jpg", "webp"] = Field(
        "png", description="of the files; png and webp are lossless, jpg has a quality of 95"
    )
    rows_per_shard: int = Field(
        64,
        ge=1,
        le=2**20,
        description="images of a shard: what a killed run draws again; no more than an hour draws",
    )

    @field_validator("options")
    @classmethod
    def _others(
        cls, options: dict[str, bool | int | float | str]
    ) -> dict[str, bool | int | float | str]:
        if taken := sorted(OWN_ARGUMENTS & set(options)):
            raise ValueError(f"options.{taken[0]} has a setting of its own, or is not to be set")
        return options
