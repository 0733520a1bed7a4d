"""CLIP's options and defaults."""

from typing import Literal

from pydantic import Field

from pretrain.declare import TINY_CLIP, Declared, Needs, Options, Range


class ClipOptions(Options):
    """CLIP, Radford et al. 2021 (arXiv:2103.00020)."""

    crop_scale: Range = Field((0.6, 1.0), description="share of the image's area in a random crop")
    flip: float = Field(
        0.0,
        ge=0,
        le=1,
        description="chance of a mirrored view; 0 where text, digits or left and right matter",
    )
    jitter: float = Field(
        0.0,
        ge=0,
        le=1,
        description="strength of brightness, contrast and saturation jitter; 0 is none",
    )
    grey: float = Field(0.0, ge=0, le=1, description="chance of a view without colour")
    invert: float = Field(
        0.0,
        ge=0,
        le=1,
        description="chance of a negative; where shape, not "
        "colour, is to be learnt from few samples",
    )
    drop_tokens: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="chance that a token of a caption is "
        "left out; where captions are few, so that none is learnt by heart",
    )
    same_caption: Literal["negative", "positive"] = Field(
        "negative",
        description="a pair of the batch with the very same caption: a negative, as "
        "published, or one more positive (UniCL, arXiv:2204.03610)",
    )


DECLARED = Declared(
    options=ClipOptions,
    defaults={
        "model": TINY_CLIP,
        "lr": 1e-3,
        "weight_decay": 0.2,
        "betas": (0.9, 0.98),
        "eps": 1e-6,
    },
    paper="Radford et al. 2021, arXiv:2103.00020",
    needs=Needs(model="open_clip", least_batch=2, captions=True),
)
