"""Barlow Twins' options and defaults."""

from pydantic import Field

from pretrain.declare import Declared, Needs, Options, Range


class BarlowOptions(Options):
    """Barlow Twins, Zbontar et al. 2021 (arXiv:2103.03230); sizes are for one small machine."""

    projector: int = Field(512, gt=1, description="width of its three layers; 8192 as published")
    off_diagonal: float = Field(0.0051, ge=0, description="weight of the redundancy, as published")
    bias_rate: float = Field(
        0.024,
        gt=0,
        le=1,
        description="lars: share of the learning rate for biases and norms, which it does not "
        "adapt; 0.0048 against 0.2 as published",
    )
    crop_scale: Range = Field((0.08, 1.0), description="area share of the two random crops")
    flip: float = Field(0.5, ge=0, le=1, description="chance of a mirrored view")
    jitter: float = Field(0.4, ge=0, le=1, description="strength of the colour jitter (p 0.8)")
    grey: float = Field(0.2, ge=0, le=1, description="chance of a view without colour")
    blur: Range = Field((1.0, 0.1), description="chance for the first and for the second view")
    solarize: Range = Field((0.0, 0.2), description="chance for the first and the second view")


DECLARED = Declared(
    options=BarlowOptions,
    defaults={
        "model": "resnet10t",
        "optimizer": "lars",
        "lr": 1.6,  # published: 0.2 for each 256 samples of a batch of 2048
        "min_lr": 0.0016,
        "weight_decay": 1e-6,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
    },
    paper="Zbontar et al. 2021, arXiv:2103.03230",
    needs=Needs(least_batch=2),
    whole="its loss is of the correlations within the whole batch",
)
