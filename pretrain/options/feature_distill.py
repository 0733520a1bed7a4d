"""Options and defaults of distillation from a frozen teacher's features."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from pretrain.declare import VIT_DEFAULTS, Declared, Needs, Range
from pretrain.labels import Labelled


class FeatureDistillOptions(Labelled):
    """The norm and direction loss of KD++, Wang et al. 2023 (arXiv:2305.17007)."""

    WEIGHTS: ClassVar[frozenset[str]] = frozenset({"teacher"})

    teacher: str | None = Field(
        None,
        description="the encoder that teaches: a finished run's folder (with random: before it "
        "that network untrained, a baseline), or timm:<name> with the weights timm has for it",
    )
    teacher_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="timm: arguments of timm.create_model"
    )
    direction: Literal["image", "class"] = Field(
        "image",
        description="which way a student's feature is to point: as the teacher's of the same "
        "image, which needs no labels; or, as published, as its mean over the image's class",
    )
    crop_scale: Range = Field((0.4, 1.0), description="area share of the crop that both see")
    flip: float = Field(0.5, ge=0, le=1, description="chance of a mirrored view")
    jitter: float = Field(0.0, ge=0, le=1, description="strength of the colour jitter (p 0.8)")

    def unusable(self, fields: Mapping[str, Any], names: Collection[str] = ()) -> str | None:
        return super().unusable(fields, names) if self.direction == "class" else None


DECLARED = Declared(
    options=FeatureDistillOptions,
    defaults=VIT_DEFAULTS,
    paper="Wang et al. 2023, arXiv:2305.17007",
    needs=Needs(meta=True),
    probe={"teacher": "."},
    whole="its directions are means over the whole batch",
)
