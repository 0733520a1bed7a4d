"""SigLIP's options and defaults."""

from pydantic import Field

from pretrain.declare import TINY_CLIP, Declared, Needs
from pretrain.pair_options import NestedOptions


class SiglipOptions(NestedOptions):
    """SigLIP, Zhai et al. 2023 (arXiv:2303.15343)."""

    init_scale: float = Field(
        10.0,
        gt=0,
        description="the factor of similarities at the start, learned by its logarithm; 10 as "
        "published, 1 / 0.07 in open_clip's configurations",
    )
    init_bias: float = Field(-10.0, description="added to them, learned; -10 as published")
    chunk: int | None = Field(
        None,
        gt=0,
        description="images that are compared with texts at a time: similarities then take "
        "memory for so many rows, and are computed again for the gradient; unset: all at once",
    )


DECLARED = Declared(
    options=SiglipOptions,
    defaults={
        "model": TINY_CLIP,
        "lr": 1e-3,
        "weight_decay": 0.1,
        "betas": (0.9, 0.95),
        "eps": 1e-8,
    },
    paper="Zhai et al. 2023, arXiv:2303.15343",
    needs=Needs(model="open_clip", least_batch=2, captions=True),
    divides="features",
)
