"""Settings of the decisions: rules, duplicates, contamination. Light: imports no engine."""

from collections.abc import Collection
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

EXACT = "exact_duplicate"
PIXELS = "pixel_duplicate"
PERCEPTUAL = "perceptual_duplicate"
NEAR = "near_duplicate"
DUPLICATES = (EXACT, PIXELS, PERCEPTUAL, NEAR)  # in the order of the ladder
HASH_BITS = 64

Number = Annotated[float, Field(allow_inf_nan=False)]
Similarity = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Reason = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Older = Annotated[str, Field(pattern=r"^[^@/\s]+@[^@/\s]+/[^@/\s]+$")]
VectorName = Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")]
KEEP_ORDER = (  # of duplicates; each expression with the column that it needs
    ("clip.similarity", "clip.similarity"),
    ("rows.width * rows.height", "rows.width"),
)


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
        if self.reason in DUPLICATES:
            raise ValueError(
                f"{self.reason} is what deduplication reports; call the rule otherwise"
            )
        return self

    @property
    def expression(self) -> str:
        return self.score if self.score is not None else self.drop or ""


class NearSettings(BaseModel):
    """One search by embedding: which vectors, and from which cosine on two rows are duplicates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vectors: VectorName = Field(
        default="descriptor/pixels", description="vectors compared, as SCORER/VECTOR"
    )
    threshold: Similarity = Field(
        default=0.95, description="cosine similarity from which a row is a near-duplicate"
    )
    floor: Similarity = Field(
        default=0.85,
        description="similarity from which pairs are stored, so that `threshold` can be moved",
    )

    @model_validator(mode="after")
    def _floor_below(self) -> "NearSettings":
        if self.threshold < self.floor:
            raise ValueError(
                f"threshold {self.threshold} of {self.vectors} is below its floor {self.floor}: "
                "pairs under the floor are not stored; lower the floor too"
            )
        return self


class DedupSettings(BaseModel):
    """Which duplicates are dropped, and which member of a group is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exact: bool = Field(default=True, description="drop rows whose image bytes equal a kept row's")
    pixels: bool = Field(default=True, description="drop rows whose pixels equal a kept row's")
    perceptual: bool = Field(
        default=True, description="drop rows whose perceptual hashes are close to a kept row's"
    )
    radius: int = Field(
        default=8, ge=0, le=16, description="bits of 64 in which pHash, and dHash, may differ"
    )
    radius_floor: int = Field(
        default=12,
        ge=0,
        le=16,
        description="distance down to which pairs are stored, so that `radius` can be moved",
    )
    near: tuple[NearSettings, ...] = Field(
        default=(NearSettings.model_validate({}),),
        description="searches by embedding, in order; [] for none",
    )
    priority: tuple[str, ...] | None = Field(
        default=None,
        description="SQL expressions in order, highest first; of duplicates that pass all rules "
        "the first is kept, of equal ones the lowest uid. Without: clip.similarity, pixels",
    )
    after: Older | None = Field(
        default=None,
        description="NAME@VERSION/EDGES of this store: take its pairs, and search for those that "
        "rows make which it did not compare",
    )

    @field_validator("priority", mode="before")
    @classmethod
    def _one_expression(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> "DedupSettings":
        if self.radius > self.radius_floor:
            raise ValueError(
                f"dedup.radius {self.radius} is above dedup.radius_floor {self.radius_floor}: "
                "pairs further apart are not stored; raise the floor too"
            )
        vectors = [search.vectors for search in self.near]
        for name in vectors:
            if vectors.count(name) > 1:
                raise ValueError(f"dedup.near compares {name} twice; keep one of them")
        return self

    def order(self, columns: Collection[str]) -> tuple[str, ...]:
        """The keep order: `priority`, else what there is of similarity, then pixels."""
        if self.priority is not None:
            return self.priority
        return tuple(text for text, column in KEEP_ORDER if column in columns)

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The least similarity of each rung: exact, pixels, perceptual, then those of `near`."""
        return (1.0, 1.0, 1 - self.radius / HASH_BITS, *(each.threshold for each in self.near))

    @property
    def active(self) -> tuple[bool, ...]:
        """Which rungs drop rows, in the same order."""
        return (self.exact, self.pixels, self.perceptual, *(True for _ in self.near))

    @staticmethod
    def none() -> "DedupSettings":
        """Every rung switched off."""
        return DedupSettings(exact=False, pixels=False, perceptual=False, near=())


class ContaminationSettings(BaseModel):
    """How images of the evaluation sets are looked for; what then goes is for a rule to say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    descriptor: VectorName = Field(
        default="descriptor/pixels", description="vectors compared, as SCORER/VECTOR"
    )
    radius: int = Field(
        default=8, ge=0, le=16, description="bits of 64 up to which the figures count a hit"
    )
    threshold: Similarity = Field(
        default=0.95, description="similarity from which the figures count a hit"
    )
