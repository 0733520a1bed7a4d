"""Options that objectives of images and captions have in common. Light: no PyTorch."""

from typing import ClassVar

from pydantic import Field, PositiveInt

from pretrain.declare import Options, Range


class PairOptions(Options):
    """The views of a pair."""

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


class NestedOptions(PairOptions):
    """Vectors whose first values are vectors, too: Matryoshka representations."""

    LATER: ClassVar[frozenset[str]] = frozenset({"prefixes"})

    prefixes: tuple[PositiveInt, ...] = Field(
        (),
        description="so many first values of an embedding are to do as an embedding, too; powers "
        "of two from 8 as published. The loss is the mean over them and the whole "
        "(Matryoshka, arXiv:2205.13147)",
    )
