"""Options and defaults of training from a teacher's stored maps of labels."""

from typing import ClassVar

from pydantic import Field

from pretrain.declare import VIT_DEFAULTS, Declared, Needs, Range
from pretrain.labels import Taught


class LabelMapsOptions(Taught):
    """ReLabel, Yun et al. 2021 (arXiv:2101.05022).

    The columns are those of `python -m pretrain reinforce` with output: map.
    """

    VALUES: ClassVar[tuple[str, int]] = ("scores", 3)

    teacher: str = Field("label_map", description="the score columns with the teacher's maps")
    crop_scale: Range = Field((0.08, 1.0), description="area share of the random crop")
    flip: float = Field(0.5, ge=0, le=1, description="chance of a mirrored view")
    jitter: float = Field(0.0, ge=0, le=1, description="strength of the colour jitter (p 0.8)")


DECLARED = Declared(
    options=LabelMapsOptions,
    defaults=VIT_DEFAULTS,
    paper="Yun et al. 2021, arXiv:2101.05022",
    needs=Needs(meta=True),
    probe={"classes": ("a", "b")},
    divides="mean",
)
