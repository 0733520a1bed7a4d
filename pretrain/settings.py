"""Settings of a training run. Light: a recipe is read and checked without importing PyTorch."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

# A CLIP of 3.9 million parameters (3.2 of them token embeddings) that learns on two cores.
TINY_CLIP: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "head_width": 64, "image_size": 64},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}
TINY_VIT: dict[str, Any] = {"patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3}


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Range = tuple[float, float]


class ClipOptions(_Settings):
    """CLIP, Radford et al. 2021 (arXiv:2103.00020)."""

    crop_scale: Range = Field((0.6, 1.0), description="share of the image's area in a random crop")
    flip: float = Field(
        0.0,
        ge=0,
        le=1,
        description="chance of a mirrored view; 0 where text, digits or left and right matter",
    )
    jitter: float = Field(
        0.0,
        ge=0,
        le=1,
        description="strength of brightness, contrast and saturation jitter; 0 is none",
    )
    grey: float = Field(0.0, ge=0, le=1, description="chance of a view without colour")
    invert: float = Field(
        0.0,
        ge=0,
        le=1,
        description="chance of a negative; where shape, not "
        "colour, is to be learnt from few samples",
    )
    drop_tokens: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="chance that a token of a caption is "
        "left out; where captions are few, so that none is learnt by heart",
    )
    same_caption: Literal["negative", "positive"] = Field(
        "negative",
        description="a pair of the batch with the very same caption: a negative, as "
        "published, or one more positive (UniCL, arXiv:2204.03610)",
    )


class DinoOptions(_Settings):
    """DINO, Caron et al. 2021 (arXiv:2104.14294); sizes are for one small machine."""

    prototypes: int = Field(1024, gt=1, description="outputs of the head; 65536 as published")
    hidden: int = Field(256, gt=0, description="width of the head; 2048 as published")
    bottleneck: int = Field(64, gt=0, description="width before the last layer; 256 as published")
    global_scale: Range = Field((0.4, 1.0), description="area share of the two global crops")
    local_scale: Range = Field((0.05, 0.4), description="area share of the local crops")
    local_crops: int = Field(4, ge=0, description="local crops of each image; 8 as published")
    local_size: int | None = Field(None, gt=0, description="pixels; half the image size if unset")
    flip: float = Field(0.5, ge=0, le=1, description="chance of a mirrored view")
    jitter: float = Field(0.4, ge=0, le=1, description="strength of the colour jitter (p 0.8)")
    student_temperature: float = Field(0.1, gt=0)
    teacher_temperature: Range = Field((0.04, 0.07), description="first and last, linear between")
    temperature_warmup: float = Field(
        0.3, ge=0, le=1, description="share of the steps over which the teacher's temperature rises"
    )
    teacher_momentum: float = Field(0.996, ge=0, lt=1, description="at the start; 1 at the end")
    center_momentum: float = Field(0.9, ge=0, lt=1)
    freeze_last_layer: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of the steps in which "
        "the head's last layer rests; the first epoch as published",
    )
    weight_decay_end: float = Field(0.4, ge=0, description="the cosine schedule's last value")
    drop_path: float = Field(0.1, ge=0, lt=1, description="of the student")


class MaeOptions(_Settings):
    """MAE, He et al. 2021 (arXiv:2111.06377)."""

    mask_ratio: float = Field(0.75, gt=0, lt=1, description="share of the patches that are hidden")
    normalize_pixels: bool = Field(
        True, description="predict each patch normalised by its own mean and (unbiased) variance"
    )
    crop_scale: Range = Field((0.2, 1.0), description="area share of the random crop")
    flip: float = Field(0.5, ge=0, le=1, description="chance of a mirrored view")
    decoder_width: int = Field(64, gt=0, description="512 as published")
    decoder_depth: int = Field(2, gt=0, description="8 as published")
    decoder_heads: int = Field(4, gt=0, description="16 as published")


Options = ClipOptions | DinoOptions | MaeOptions
OPTIONS: dict[str, type[BaseModel]] = {"clip": ClipOptions, "dino": DinoOptions, "mae": MaeOptions}
DEFAULTS: dict[str, dict[str, Any]] = {
    "clip": {
        "model": TINY_CLIP,
        "lr": 1e-3,
        "weight_decay": 0.2,
        "betas": (0.9, 0.98),
        "eps": 1e-6,
    },
    "dino": {
        "model": "vit_tiny_patch16_224",
        "model_kwargs": TINY_VIT,
        "lr": 1e-3,
        "weight_decay": 0.04,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "clip_grad": 3.0,
    },
    "mae": {
        "model": "vit_tiny_patch16_224",
        "model_kwargs": TINY_VIT,
        "lr": 1e-3,
        "weight_decay": 0.05,
        "betas": (0.9, 0.95),
        "eps": 1e-8,
    },
}
# What cannot change a single byte of a run, and so is no part of its digest.
EXECUTION = ("cache_mib", "checkpoint_every", "max_failures")


def _read_options(objective: str, value: Any) -> BaseModel:
    model = OPTIONS[objective]
    try:
        return model.model_validate(value)
    except ValidationError as error:
        known = f"unknown; {objective} knows {', '.join(model.model_fields)}"
        lines = [
            f"options.{'.'.join(map(str, problem['loc']))}: "
            + (known if problem["type"] == "extra_forbidden" else problem["msg"])
            for problem in error.errors()
        ]
        raise ValueError("; ".join(lines)) from None


class TrainSettings(_Settings):
    """One training run. What is left out is filled in by the objective's defaults.

    A run sees `steps * batch` samples. `options` are the objective's own settings.
    """

    objective: str = Field(description="clip, dino or mae")
    model: str | dict[str, Any] = Field(
        description="clip: an open_clip name or model configuration; dino, mae: a timm name"
    )
    model_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="dino, mae: arguments of timm.create_model"
    )
    pretrained: str | None = Field(
        None,
        description="start from these weights: an open_clip tag (clip), a run's folder, or a "
        "weight file; unset: from random weights",
    )
    image_size: int = Field(64, gt=0, description="pixels of a side the encoder sees")
    batch: int = Field(128, gt=0, description="samples of one step")
    steps: int = Field(300, gt=0)
    lr: float = Field(gt=0, description="peak learning rate of AdamW")
    min_lr: float = Field(0.0, ge=0, description="at the end of the cosine")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps with a rising rate")
    weight_decay: float = Field(ge=0, description="of weights with two or more dimensions")
    betas: Range
    eps: float = Field(gt=0)
    clip_grad: float | None = Field(
        None, gt=0, description="gradient norm at most: of each parameter for dino, of all else"
    )
    seed: int = 0
    threads: int = Field(2, gt=0, description="of one process; another count may round differently")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where one is")
    shuffle: int = Field(
        8192,
        gt=0,
        description="samples that are shuffled among each other, and "
        "whose compressed bytes are held in memory",
    )
    canvas: int | None = Field(
        None,
        gt=0,
        description="pixels of the square a sample is decoded to, before random crops; "
        "1.5 times the image size if unset",
    )
    log_every: int = Field(10, gt=0, description="steps between two lines of metrics.jsonl")
    cache_mib: int = Field(256, ge=0, description="MiB of decoded samples kept between epochs")
    checkpoint_every: int = Field(100, gt=0, description="steps between two checkpoints")
    max_failures: int = Field(2, ge=0, description="times a lost worker is replaced")
    options: Options

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        objective = value.get("objective")
        if not isinstance(objective, str) or objective not in OPTIONS:
            raise ValueError(f"objective is {objective!r}; use one of {', '.join(OPTIONS)}")
        defaults = dict(DEFAULTS[objective])
        if "model" in value:
            defaults.pop("model_kwargs", None)
        filled = {
            **defaults,
            **{
                name: entry
                for name, entry in value.items()
                if entry is not None or name not in defaults
            },
        }
        options = filled.get("options") or {}
        if not isinstance(options, BaseModel):
            filled["options"] = _read_options(objective, options)
        return filled

    @model_validator(mode="after")
    def _agree(self) -> "TrainSettings":
        if not isinstance(self.options, OPTIONS[self.objective]):
            raise ValueError(f"options are not those of objective {self.objective}")
        if self.objective != "mae" and self.batch < 2:
            raise ValueError(
                f"batch is {self.batch}; {self.objective} compares samples within a "
                "batch, so it needs at least 2"
            )
        if self.objective == "clip" and self.model_kwargs:
            raise ValueError(
                "model_kwargs are for timm models; put the open_clip configuration into `model`"
            )
        if self.objective != "clip" and not isinstance(self.model, str):
            raise ValueError(f"model of {self.objective} is the name of a timm model")
        patch = self.patch_size
        if patch and self.image_size % patch:
            raise ValueError(
                f"image_size {self.image_size} is not divisible by the model's patch "
                f"size {patch}; use {self.image_size // patch * patch or patch}"
            )
        return self

    @property
    def patch_size(self) -> int | None:
        """The patch size the settings state; None where only the model knows."""
        source = self.model_kwargs
        if isinstance(self.model, dict):
            source = self.model.get("vision_cfg", {})
        patch = source.get("patch_size")
        return patch if isinstance(patch, int) else None

    @property
    def canvas_size(self) -> int:
        return self.canvas or self.image_size * 3 // 2

    def identity(self) -> dict[str, Any]:
        """All settings that shape the result, as JSON: the part of the run's digest they make."""
        return self.model_dump(mode="json", exclude=set(EXECUTION))
