"""SiT's options and defaults."""

from typing import Self

from pydantic import Field, model_validator

from pretrain.declare import VIT_DEFAULTS, Declared, Needs, Options, Range


class SitOptions(Options):
    """SiT, Atito et al. 2021 (arXiv:2104.03602); sizes are for one small machine."""

    corrupt: float = Field(
        0.6,
        gt=0,
        lt=1,
        description="share of the patches that are overwritten, in groups; 0.5 to 0.7 as published",
    )
    foreign: float = Field(
        0.35,
        ge=0,
        le=1,
        description="share of the patches that another image may overwrite; noise does the rest",
    )
    reconstruction: float = Field(1.0, ge=0, description="weight of the overwritten pixels' error")
    contrast: float = Field(1.0, ge=0, description="weight of the contrast of two views")
    rotation: float = Field(
        0.0,
        ge=0,
        description="weight of telling how a view is turned, as in the paper's first version; "
        "at 0 no view is turned",
    )
    temperature: float = Field(0.2, gt=0, description="of the contrast")
    momentum: float = Field(
        0.996,
        ge=0,
        le=1,
        description="share of the slow network that stays at a step, at first; 1 at the end",
    )
    hidden: int = Field(256, gt=0, description="width of the projection's first layer")
    dim: int = Field(64, gt=0, description="numbers that are compared; 256 as published")
    crop_scale: Range = Field((0.2, 1.0), description="area share of the two random crops")
    flip: float = Field(0.5, ge=0, le=1, description="chance of a mirrored view")
    jitter: float = Field(0.4, ge=0, le=1, description="strength of the colour jitter (p 0.8)")
    grey: float = Field(0.2, ge=0, le=1, description="chance of a view without colour")
    blur: Range = Field((1.0, 0.1), description="chance for the first and for the second view")
    solarize: Range = Field((0.0, 0.2), description="chance for the first and the second view")

    @model_validator(mode="after")
    def _learns(self) -> Self:
        if not (self.reconstruction or self.contrast or self.rotation):
            raise ValueError("reconstruction, contrast and rotation are all 0: nothing is learnt")
        return self


DECLARED = Declared(
    options=SitOptions,
    defaults={**VIT_DEFAULTS, "lr": 5e-4},
    paper="Atito et al. 2021, arXiv:2104.03602",
    needs=Needs(least_batch=2),
    divides="features",
)
