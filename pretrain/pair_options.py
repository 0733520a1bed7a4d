"""Options that objectives of images and captions have in common. Light: no PyTorch."""

from collections.abc import Mapping
from math import inf
from typing import Any, ClassVar

from pydantic import Field, PositiveInt, field_validator

from pretrain.declare import Options, Range

ORIGINAL = "caption"  # in a mix of captions: the one that a sample came with


class PairOptions(Options):
    """The views of a pair."""

    LATER: ClassVar[frozenset[str]] = frozenset({"captions"})

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
    captions: dict[str, float] = Field(
        {},
        description="share of each kind of caption in what is read: `caption`, the samples' own, "
        "and score columns by name, whose value `caption` is taken: {caption: 0.5, blip: 0.5}. "
        "Where a sample has none of the kind that is drawn, its own; empty: its own always",
    )

    @field_validator("captions")
    @classmethod
    def _are_shares(cls, captions: dict[str, float]) -> dict[str, float]:
        """In one order, whatever a recipe's: a digest knows none."""
        if wrong := next((name for name, share in captions.items() if not 0 <= share < inf), None):
            raise ValueError(f"captions.{wrong} is {captions[wrong]}: a share is 0 or more")
        if captions and not 0 < sum(captions.values()) < inf:
            raise ValueError("captions has no share above 0, or shares without end")
        return dict(sorted(captions.items()))

    def mix(self) -> dict[str, float]:
        """Shares of the samples' own captions, which come first, and of others; or nothing."""
        if not self.captions:
            return {}
        others = {name: share for name, share in self.captions.items() if share}
        return {ORIGINAL: self.captions.get(ORIGINAL, 0.0), **others}

    def reads(self) -> frozenset[str]:
        return super().reads() | self.mix().keys() - {ORIGINAL}

    def check_columns(self, name: str, url: str, made: Mapping[str, Any]) -> None:
        from pretrain.columns import check_text  # NumPy

        if name in self.captions:
            check_text(url, "caption")


class NestedOptions(PairOptions):
    """Vectors whose first values are vectors, too: Matryoshka representations."""

    LATER: ClassVar[frozenset[str]] = PairOptions.LATER | {"prefixes"}

    prefixes: tuple[PositiveInt, ...] = Field(
        (),
        description="so many first values of an embedding are to do as an embedding, too; powers "
        "of two from 8 as published. The loss is the mean over them and the whole "
        "(Matryoshka, arXiv:2205.13147)",
    )
