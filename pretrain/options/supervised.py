"""Options and defaults of training with classes."""

from typing import Literal

from pydantic import Field

from pretrain.declare import VIT_DEFAULTS, Declared, Needs, Range
from pretrain.labels import Labelled

Mix = Literal["cutmix", "mixup", "transmix", "mixpro"]


class SupervisedOptions(Labelled):
    """DeiT's recipe, Touvron et al. 2020 (arXiv:2012.12877), without its distillation."""

    smoothing: float = Field(0.1, ge=0, lt=1, description="share of a label for all classes evenly")
    mix: tuple[Mix, ...] = Field(
        (),
        description="ways to mix two images, each as likely: cutmix (arXiv:1905.04899), mixup "
        "(arXiv:1710.09412), transmix (arXiv:2111.09833), mixpro (arXiv:2304.12043)",
    )
    mix_chance: float = Field(1.0, ge=0, le=1, description="chance that an image is mixed")
    cut_alpha: float = Field(
        1.0, gt=0, description="Beta distribution of the own share: cutmix, transmix, mixpro"
    )
    mixup_alpha: float = Field(0.8, gt=0, description="that of mixup; 0.8 as in DeiT")
    mask_patches: int = Field(
        2, gt=0, description="mixpro: patches of a side of a mask's cell; 4 as published"
    )
    crop_scale: Range = Field((0.08, 1.0), description="area share of the random crop")
    flip: float = Field(0.5, ge=0, le=1, description="chance of a mirrored view")
    jitter: float = Field(0.3, ge=0, le=1, description="strength of the colour jitter (p 0.8)")
    drop_path: float = Field(0.0, ge=0, lt=1, description="0.1 for DeiT-B")

    def undivided(self) -> str | None:
        return "options.mix mixes the labels of images across the batch" if self.mix else None


DECLARED = Declared(
    options=SupervisedOptions,
    defaults=VIT_DEFAULTS,
    paper="Touvron et al. 2020, arXiv:2012.12877",
    needs=Needs(meta=True),
    probe={"classes": ("a", "b")},
    divides="mean",
)
