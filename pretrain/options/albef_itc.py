"""Options and defaults of ALBEF's contrast with momentum distillation."""

from pydantic import Field, field_validator

from pretrain.declare import TINY_CLIP, Declared, Needs, Range
from pretrain.pair_options import PairOptions


class AlbefItcOptions(PairOptions):
    """The image-text contrast of ALBEF, Li et al. 2021 (arXiv:2107.07651)."""

    queue: int = Field(
        1024,
        gt=0,
        description="embeddings of earlier batches that are negatives, too; 65536 as published. "
        "Fewer than the samples, or a pair meets itself",
    )
    momentum: float = Field(
        0.995, ge=0, le=1, description="share of the slow towers that stays at each step"
    )
    alpha: float = Field(0.4, ge=0, le=1, description="share of the slow towers in the targets")
    alpha_warmup: float = Field(
        1 / 30,
        ge=0,
        le=1,
        description="share of the steps over which it rises from 0; the first of 30 epochs as "
        "published",
    )
    init_temperature: float = Field(0.07, gt=0, description="at the start; learned")
    temperature: Range = Field((0.001, 0.5), description="bounds of it")

    @field_validator("temperature")
    @classmethod
    def _bounds(cls, value: Range) -> Range:
        if not 0 < value[0] <= value[1]:
            raise ValueError("give a lower bound above 0 and an upper one not below it")
        return value


DECLARED = Declared(
    options=AlbefItcOptions,
    defaults={
        "model": TINY_CLIP,
        "lr": 1e-3,
        "weight_decay": 0.02,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
    },
    paper="Li et al. 2021, arXiv:2107.07651",
    needs=Needs(model="open_clip", least_batch=2, captions=True),
    whole="its queues take in one whole batch a step",
)
