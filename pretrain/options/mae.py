"""MAE's options and defaults."""

from pydantic import Field

from pretrain.declare import VIT_DEFAULTS, Declared, Needs, Options, Range


class MaeOptions(Options):
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


DECLARED = Declared(
    options=MaeOptions,
    defaults={**VIT_DEFAULTS, "betas": (0.9, 0.95)},
    paper="He et al. 2021, arXiv:2111.06377",
    needs=Needs(drops_patches=True),
    pooling="patch_mean",  # no loss ever acts on its class token; they average, too
    divides="mean",
)
