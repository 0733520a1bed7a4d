"""Options and defaults of distillation from a frozen teacher's features."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from infra.errors import SluiceError
from pretrain.declare import VIT_DEFAULTS, Declared, Needs, Range
from pretrain.labels import Labelled


class FeatureDistillOptions(Labelled):
    """The norm and direction loss of KD++, Wang et al. 2023 (arXiv:2305.17007)."""

    WEIGHTS: ClassVar[frozenset[str]] = frozenset({"teacher"})
    LATER: ClassVar[frozenset[str]] = frozenset({"stored", "width"})

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
    stored: str | None = Field(
        None,
        description="in place of `teacher`: the score columns with its vectors, of views that were "
        "stored (`python -m pretrain reinforce`); crop_scale, flip and jitter are then theirs",
    )
    width: int | None = Field(None, gt=0, description="stored: numbers of a vector")
    crop_scale: Range = Field((0.4, 1.0), description="area share of the crop that both see")
    flip: float = Field(0.5, ge=0, le=1, description="chance of a mirrored view")
    jitter: float = Field(0.0, ge=0, le=1, description="strength of the colour jitter (p 0.8)")

    @model_validator(mode="after")
    def _stored_have_a_width(self) -> "FeatureDistillOptions":
        if (self.stored is None) != (self.width is None):
            raise ValueError("stored vectors have a width: give both of `stored` and `width`")
        if self.stored is not None and self.teacher is not None:
            raise ValueError("give one of `teacher` and `stored`")
        return self

    def reads(self) -> frozenset[str]:
        return frozenset({self.stored} if self.stored is not None else ())

    def check_columns(self, name: str, url: str, made: Mapping[str, Any]) -> None:
        if made.get("width") != self.width:
            raise SluiceError(
                f"options.width is {self.width}, and the vectors of {url} have {made.get('width')} "
                "numbers",
                "give the width of these, or name columns that were made with output: vectors",
            )

    def unusable(self, fields: Mapping[str, Any], names: Collection[str] = ()) -> str | None:
        if self.stored is not None:
            from pretrain.outputs import vectors_fault  # NumPy

            if wrong := vectors_fault(fields.get(self.stored), self.width or 0):
                return wrong
        return super().unusable(fields, names) if self.direction == "class" else None


DECLARED = Declared(
    options=FeatureDistillOptions,
    defaults=VIT_DEFAULTS,
    paper="Wang et al. 2023, arXiv:2305.17007",
    needs=Needs(meta=True),
    probe={"teacher": "."},
    whole="its directions are means over the whole batch",
)
