"""SparK's options and defaults."""

from pydantic import Field

from pretrain.declare import Declared, Options, Range


class SparkOptions(Options):
    """SparK, Tian et al. 2023 (arXiv:2301.03580)."""

    mask_ratio: float = Field(
        0.6,
        gt=0,
        lt=1,
        description="share of the cells that are hidden; a cell is as large as a "
        "place of the deepest map",
    )
    normalize_pixels: bool = Field(
        True, description="predict each cell normalised by its own mean and (unbiased) variance"
    )
    crop_scale: Range = Field((0.67, 1.0), description="area share of the random crop")
    flip: float = Field(0.5, ge=0, le=1, description="chance of a mirrored view")
    decoder_width: int = Field(
        64, gt=0, description="of the deepest map, halved at each finer scale; 768 as published"
    )
    weight_decay_end: float = Field(0.2, ge=0, description="the cosine schedule's last value")


DECLARED = Declared(
    options=SparkOptions,
    defaults={
        # A stride of 8 at 64 pixels makes 8 x 8 cells; 32 at 224 makes 7 x 7, as published.
        "model": "resnet10t",
        "model_kwargs": {"channels": [32, 48, 64, 96], "output_stride": 8},
        "optimizer": "lamb",
        "lr": 2e-3,
        "weight_decay": 0.04,
        "betas": (0.9, 0.95),
        "eps": 1e-6,
        "clip_grad": 5.0,
    },
    paper="Tian et al. 2023, arXiv:2301.03580",
    pooling="patch_mean",
    divides="mean",
)
