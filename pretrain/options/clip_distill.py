"""Options and defaults of distillation from a CLIP teacher."""

from typing import ClassVar

from pydantic import Field

from pretrain.declare import Declared, Needs
from pretrain.options.clip import DECLARED as CLIP
from pretrain.options.clip import ClipOptions


class ClipDistillOptions(ClipOptions):
    """CLIP-KD's and open_clip's distillation by similarities (arXiv:2307.12732)."""

    WEIGHTS: ClassVar[frozenset[str]] = frozenset({"teacher"})

    teacher: str | None = Field(
        None,
        description="a CLIP run's folder, or any in open_clip's format; with teacher_model, a "
        "weight file or an open_clip tag. Must be given",
    )
    teacher_model: str | None = Field(
        None, description="open_clip's name of the teacher; unset: its folder says"
    )
    distill: float = Field(
        1.0, gt=0, description="weight of the distillation beside the contrast, which has 1"
    )


DECLARED = Declared(
    options=ClipDistillOptions,
    defaults=CLIP.defaults,
    paper="Yang et al. 2023, arXiv:2307.12732",
    needs=Needs(model="open_clip", least_batch=2, captions=True),
    probe={"teacher": "."},
    divides="features",
)
