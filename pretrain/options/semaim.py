"""SemAIM's options and defaults."""

from typing import Literal

from pydantic import Field

from pretrain.declare import VIT_DEFAULTS, Declared, Options, Range


class SemaimOptions(Options):
    """SemAIM, Song et al. 2023 (arXiv:2312.10457)."""

    target: Literal["pixels", "features"] = Field(
        "pixels",
        description="what is predicted: a patch's blurred pixels, or its features from a slow "
        "average of the encoder",
    )
    normalize_pixels: bool = Field(
        True, description="predict each patch normalised by its own mean and (unbiased) variance"
    )
    blur: float = Field(
        1.0, ge=0, description="pixels, standard deviation of the blur of pixels to be predicted"
    )
    teacher_momentum: float = Field(
        0.999, ge=0, lt=1, description="features: share of the average that stays at each step"
    )
    query_depth: int | None = Field(
        None,
        gt=0,
        description="blocks of the predictor, evenly along those of the encoder, whose number it "
        "divides; as many as the encoder has if unset, as published (12)",
    )
    crop_scale: Range = Field((0.2, 1.0), description="area share of the random crop")
    flip: float = Field(0.5, ge=0, le=1, description="chance of a mirrored view")


DECLARED = Declared(
    options=SemaimOptions,
    defaults={**VIT_DEFAULTS, "betas": (0.9, 0.95), "clip_grad": 3.0},
    paper="Song et al. 2023, arXiv:2312.10457",
    pooling="patch_mean",  # its class token sees no patch in training
    divides="mean",
)
