"""Options and defaults of the multi-instance fractal task."""

from pydantic import Field

from pretrain.declare import Declared, Needs, Range
from pretrain.labels import MultiLabelled


class MultiInstanceOptions(MultiLabelled):
    """Multi-instance prediction of fractals, Anderson and Farrell 2021 (arXiv:2110.03091)."""

    positive_weight: float | None = Field(
        None,
        gt=0,
        description="weight of a class that is there against one that is not; unset, as "
        "published: number of classes over the number there, of each image",
    )
    crop_scale: Range = Field(
        (1.0, 1.0),
        description="area share of the random crop; (1, 1), as published: the whole image, for a "
        "crop can cut off what its labels name",
    )
    flip: float = Field(0.5, ge=0, le=1, description="chance of a mirrored view")


DECLARED = Declared(
    options=MultiInstanceOptions,
    defaults={
        "model": "resnet10t",
        "optimizer": "sgd",
        "lr": 0.1,
        "weight_decay": 1e-4,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
    },
    paper="Anderson and Farrell 2021, arXiv:2110.03091",
    needs=Needs(meta=True),
    probe={"classes": ("a", "b")},
    divides="mean",
)
