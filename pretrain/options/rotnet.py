"""RotNet's options and defaults."""

from pydantic import Field

from pretrain.declare import Declared, Options, Range


class RotnetOptions(Options):
    """RotNet, Gidaris et al. 2018 (arXiv:1803.07728)."""

    crop_scale: Range = Field((0.6, 1.0), description="area share of the random crop")
    flip: float = Field(0.5, ge=0, le=1, description="chance of a mirrored view")


DECLARED = Declared(
    options=RotnetOptions,
    defaults={
        "model": "resnet10t",
        "batch": 32,  # images of a step, each seen four times; 128 as published
        "optimizer": "sgd",
        "nesterov": True,
        "lr": 0.1,
        "weight_decay": 5e-4,
        "schedule": "steps",  # as published: after epochs 60, 120 and 160 of 200
        "milestones": (0.3, 0.6, 0.8),
        "gamma": 0.2,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
    },
    paper="Gidaris et al. 2018, arXiv:1803.07728",
    divides="mean",
)
