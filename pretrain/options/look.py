"""LOOK's options and defaults."""

from pydantic import Field

from pretrain.declare import VIT_DEFAULTS, Declared, Needs, Range
from pretrain.labels import Labelled


class LookOptions(Labelled):
    """LOOK, Feng et al. 2021 (arXiv:2110.06014); of a soft label the largest class counts."""

    neighbours: int = Field(
        20,
        gt=0,
        description="k: how many samples vote on a sample's class; the fewer, the more "
        "groups a class may fall into",
    )
    temperature: float = Field(0.1, gt=0, description="of the cosines that weigh the votes")
    queue: int = Field(
        1024, gt=0, description="embeddings of earlier batches among which neighbours are sought"
    )
    momentum: float = Field(
        0.99, ge=0, le=1, description="share of the slow network that stays at each step"
    )
    hidden: int = Field(256, gt=0, description="width of the projection's first layer")
    dim: int = Field(64, gt=0, description="numbers that are compared")
    crop_scale: Range = Field((0.08, 1.0), description="area share of the random crop")
    flip: float = Field(0.5, ge=0, le=1, description="chance of a mirrored view")
    jitter: float = Field(0.3, ge=0, le=1, description="strength of the colour jitter (p 0.8)")


DECLARED = Declared(
    options=LookOptions,
    defaults=VIT_DEFAULTS,
    paper="Feng et al. 2021, arXiv:2110.06014",
    # Of three samples one can have a neighbour of its own class and one of another.
    needs=Needs(least_batch=3, meta=True),
    probe={"classes": ("a", "b")},
    whole="its queue takes in one whole batch a step",
)
