"""Options and defaults of training from a teacher's stored records."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from pretrain.declare import VIT_DEFAULTS, Declared, Needs, Options, Range
from pretrain.labels import Record, read_records


class TeacherRecordsOptions(Options):
    """Dataset Reinforcement, Faghri et al. 2023 (arXiv:2303.08983).

    A record is {"classes": [3, 17], "probabilities": [0.7, 0.2], "box": [y0, x0, y1, x1],
    "flip": true}: what the teacher gave for that crop, in shares of the image, mirrored or not.
    """

    field: str = Field("teacher", description="field of the samples' JSON: a record, or a list")
    classes: int = Field(1000, gt=1, description="classes the teacher tells apart")
    rest: Literal["spread", "drop"] = Field(
        "spread",
        description="the probability that the stored classes leave: spread over all others, or "
        "dropped, the stored ones made to sum to 1",
    )
    crop_scale: Range = Field((0.08, 1.0), description="area share of a crop, of records without")
    flip: float = Field(0.5, ge=0, le=1, description="chance of a mirrored view, likewise")

    def unusable(self, fields: Mapping[str, Any], names: Collection[str] = ()) -> str | None:
        try:
            self.records(fields)
        except ValueError as error:
            return str(error)
        return None

    def records(self, fields: Mapping[str, Any]) -> Sequence[Record]:
        """A sample's records, at least one; raises ValueError where one is not whole."""
        return read_records(fields.get(self.field), self.classes)


DECLARED = Declared(
    options=TeacherRecordsOptions,
    defaults=VIT_DEFAULTS,
    paper="Faghri et al. 2023, arXiv:2303.08983",
    needs=Needs(meta=True),
    divides="mean",
)
