"""Options and defaults of training from a teacher's stored outputs."""

from typing import ClassVar, Literal

from pydantic import Field

from pretrain.declare import VIT_DEFAULTS, Declared, Needs
from pretrain.labels import Taught


class TeacherRecordsOptions(Taught):
    """Dataset Reinforcement, Faghri et al. 2023 (arXiv:2303.08983).

    The columns are those of `python -m pretrain reinforce`: stored views, and what the teacher gave
    for each.
    """

    VALUES: ClassVar[tuple[str, int]] = ("probabilities", 2)

    rest: Literal["spread", "drop"] = Field(
        "spread",
        description="the probability that the stored classes leave: spread over all others, or "
        "dropped, the stored ones made to sum to 1",
    )


DECLARED = Declared(
    options=TeacherRecordsOptions,
    defaults=VIT_DEFAULTS,
    paper="Faghri et al. 2023, arXiv:2303.08983",
    needs=Needs(meta=True),
    probe={"classes": ("a", "b")},
    divides="mean",
)
