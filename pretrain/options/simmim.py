"""SimMIM's options and defaults."""

from pydantic import Field

from pretrain.declare import VIT_DEFAULTS, Declared, Options, Range


class SimmimOptions(Options):
    """SimMIM, Xie et al. 2021 (arXiv:2111.09886)."""

    mask_ratio: float = Field(
        0.6, gt=0, lt=1, description="share of the cells that are hidden, rounded up"
    )
    mask_patch: int | None = Field(
        None,
        gt=0,
        description="pixels of a side of a hidden cell, whole patches of the model; 32 at 224 as "
        "published; unset: what is nearest to a seventh of the image",
    )
    crop_scale: Range = Field((0.67, 1.0), description="area share of the random crop")
    flip: float = Field(0.5, ge=0, le=1, description="chance of a mirrored view")


DECLARED = Declared(
    options=SimmimOptions,
    defaults=VIT_DEFAULTS,
    paper="Xie et al. 2021, arXiv:2111.09886",
    pooling="patch_mean",  # the loss acts on the patches; a class token only passes values on
    divides="mean",
)
