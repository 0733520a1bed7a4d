"""Settings of the decisions: rules, duplicates, contamination. Light: imports no engine."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

EXACT = "exact_duplicate"
NEAR = "near_duplicate"

Number = Annotated[float, Field(allow_inf_nan=False)]
Similarity = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Reason = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
VectorName = Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")]


class RuleSettings(BaseModel):
    """A filter: a score with bounds or a share to keep, or a predicate that drops where true.

    `top: 0.3` stands for the `min` that is the score at place int(0.3 n) of all n scores in
    descending order, as DataComp takes it: ties with it are kept. Rows without a score are not
    among the n.

    A row whose score or predicate is NULL (or NaN) cannot be judged and is never kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: Reason = Field(description="what a dropped row is called; unique in a recipe")
    score: str | None = Field(
        default=None, description="SQL expression over score columns, a number"
    )
    min: Number | None = Field(default=None, description="drop a row whose score is below this")
    max: Number | None = Field(default=None, description="drop a row whose score is above this")
    top: Fraction | None = Field(
        default=None, description="keep this share of all rows that have a score, the highest"
    )
    drop: str | None = Field(
        default=None, description="SQL predicate over score columns: true drops"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> "RuleSettings":
        bounds = [bound for bound in (self.min, self.max) if bound is not None]
        if (self.score is None) == (self.drop is None):
            raise ValueError(f"rule {self.reason}: give either `score` with bounds, or `drop`")
        if self.drop is not None and (bounds or self.top is not None):
            raise ValueError(f"rule {self.reason}: `min`, `max` and `top` belong to `score`")
        if self.score is not None and bool(bounds) == (self.top is not None):
            raise ValueError(f"rule {self.reason}: a score needs `min`, `max` or both, or `top`")
        if bounds != sorted(bounds):
            raise ValueError(f"rule {self.reason}: min {self.min} is above max {self.max}")
        if self.reason in (EXACT, NEAR):
            raise ValueError(
                f"{self.reason} is what deduplication reports; call the rule otherwise"
            )
        return self

    @property
    def expression(self) -> str:
        return self.score if self.score is not None else self.drop or ""


class DedupSettings(BaseModel):
    """Which duplicates are dropped, and which member of a group is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exact: bool = Field(default=True, description="drop rows whose image bytes equal a kept row's")
    near: Similarity | None = Field(
        default=0.95,
        description="cosine similarity from which a row is a near-duplicate; null: none are",
    )
    floor: Similarity = Field(
        default=0.85,
        description="similarity from which pairs are stored, so that `near` can be moved",
    )
    descriptor: VectorName = Field(
        default="descriptor/pixels", description="vectors compared, as SCORER/VECTOR"
    )
    priority: str = Field(
        default="rows.width * rows.height",
        description="SQL expression; of duplicates that pass all rules the largest is kept",
    )

    @model_validator(mode="after")
    def _floor_below(self) -> "DedupSettings":
        if self.near is not None and self.near < self.floor:
            raise ValueError(
                f"dedup.near {self.near} is below dedup.floor {self.floor}: pairs under the floor "
                "are not stored; lower the floor too"
            )
        return self


class ContaminationSettings(BaseModel):
    """How images of the evaluation split are looked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    descriptor: VectorName = Field(
        default="descriptor/pixels", description="vectors compared, as SCORER/VECTOR"
    )
