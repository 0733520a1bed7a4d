"""Settings of the selection: an ordered plan of selectors. Light: imports no engine."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from curation.rules_settings import EXACT, NEAR, Number, Reason, Similarity, VectorName

NO_VECTOR, NO_VALUE, NO_CONCEPT = "no_vector", "no_value", "no_concept"
TAKEN = (NO_VECTOR, NO_VALUE, NO_CONCEPT, EXACT, NEAR)
DOMAIN = "domain"  # of rows.url, wherever an expression may stand
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(gt=0)]
Unjudged = Literal["drop", "keep"]


class _Selector(BaseModel):
    """What every selector has: a name, which is the reason of the rows that it leaves out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Reason | None = Field(None, description="reason of what it leaves out; else its kind")

    @property
    def reason(self) -> str:
        return self.name or str(type(self).model_fields["kind"].default)

    @property
    def expressions(self) -> dict[str, str]:
        """The SQL expressions that it reads, by the name of the setting."""
        return {}

    @property
    def vector(self) -> str | None:
        """The vectors that it reads, as SCORER/VECTOR."""
        return None

    @property
    def files(self) -> dict[str, str]:
        """The files that it reads, by the name of the setting."""
        return {}


class _Sized(_Selector):
    """A selector that is told how many rows to leave."""

    target: Count | None = Field(None, description="rows to select; all, where there are fewer")
    fraction: Share | None = Field(None, description="share of the rows that come in, instead")

    @model_validator(mode="after")
    def _one_size(self) -> "_Sized":
        if (self.target is None) == (self.fraction is None):
            raise ValueError(f"{self.reason}: give one of `target` and `fraction`")
        return self

    def size(self, rows: int) -> int:
        """How many of `rows` rows are to be selected, not more than there are."""
        wanted = self.target if self.target is not None else int(rows * (self.fraction or 0) + 0.5)
        return min(wanted, rows)


class ConceptSettings(_Selector):
    """Balance over concepts by substring counts: MetaCLIP (Xu et al. 2023, arXiv:2309.16671)."""

    kind: Literal["concepts"] = "concepts"
    entries: str = Field(min_length=1, description="file of entries: JSON list, or one a line")
    text: str = Field("rows.caption", description="SQL expression, the text that is matched")
    t: Annotated[Number, Field(gt=0)] | None = Field(
        None, description="matches of an entry from which on it is thinned out"
    )
    target: Count | None = Field(None, description="expected rows, for which `t` is solved")
    fraction: Share | None = Field(None, description="share of the rows that come in, instead")
    unmatched: Unjudged = Field("drop", description="what becomes of texts without any entry")

    @model_validator(mode="after")
    def _one_size(self) -> "ConceptSettings":
        if sum(given is not None for given in (self.t, self.target, self.fraction)) != 1:
            raise ValueError(f"{self.reason}: give one of `t`, `target` and `fraction`")
        return self

    @property
    def expressions(self) -> dict[str, str]:
        return {"text": self.text}

    @property
    def files(self) -> dict[str, str]:
        return {"entries": self.entries}


class QuotaSettings(_Selector):
    """At most so many rows of each value: of a domain, a language, any expression."""

    kind: Literal["quotas"] = "quotas"
    by: str = Field(description="SQL expression whose values have the quota, or `domain`")
    most: Count | None = Field(None, description="rows of one value")
    share: Share | None = Field(None, description="of the rows that come in, for one value")

    @model_validator(mode="after")
    def _some_bound(self) -> "QuotaSettings":
        if self.most is None and self.share is None:
            raise ValueError(f"{self.reason}: give `most`, `share` or both")
        return self

    @property
    def expressions(self) -> dict[str, str]:
        return {"by": self.by}


class TopSettings(_Sized):
    """The rows with the largest score, or, without a score, rows at random."""

    kind: Literal["top"] = "top"
    score: str | None = Field(None, description="SQL expression, a number; without it: at random")

    @property
    def expressions(self) -> dict[str, str]:
        return {"score": self.score} if self.score is not None else {}


class _OverVectors(_Selector):
    """A selector over vectors, clustered on a sample of the rows."""

    vectors: VectorName = Field("clip/image", description="vectors compared, as SCORER/VECTOR")
    sample: Count = Field(1_000_000, description="rows that centroids are found on")
    iterations: Count = Field(50, description="of k-means, at most")
    missing: Unjudged = Field(
        "drop", description="what becomes of rows without a vector; kept ones count beside a target"
    )

    @property
    def vector(self) -> str | None:
        return self.vectors


class ClusterSettings(_OverVectors, _Sized):
    """Balance over hierarchical k-means clusters (Vo et al. 2024, arXiv:2405.15613)."""

    kind: Literal["clusters"] = "clusters"
    levels: tuple[Count, ...] = Field(
        min_length=1, description="clusters of each level, the finest first: [10000, 1000, 100]"
    )
    resampling: int = Field(10, ge=0, description="resampling steps of the levels above the first")
    leaves: Literal["random", "closest"] = Field(
        "random", description="which rows of a finest cluster: at random, or next to its centroid"
    )

    @model_validator(mode="after")
    def _levels_fall(self) -> "ClusterSettings":
        if any(fine <= coarse for fine, coarse in zip(self.levels, self.levels[1:], strict=False)):
            raise ValueError(f"{self.reason}: levels {list(self.levels)} must fall, finest first")
        return self


class DensitySettings(_OverVectors, _Sized):
    """Density-based pruning (Abbas et al. 2024, arXiv:2401.04578)."""

    kind: Literal["density"] = "density"
    clusters: Count = Field(description="clusters of the rows' vectors; the paper has 500")
    neighbours: Count = Field(20, description="nearest centroids that a centroid is measured by")
    temperature: float = Field(0.1, gt=0, description="of the softmax over complexities")
    leaves: Literal["farthest", "random"] = Field(
        "farthest", description="which rows of a cluster: far from its centroid, or at random"
    )


class RetrievalSettings(_OverVectors):
    """The rows around a reference set: its nearest rows, or the cells it falls in."""

    kind: Literal["retrieval"] = "retrieval"
    reference: str = Field(
        pattern=r"^(.+\.npy|[^@/\s]+@[^@/\s]+)$",
        description=".npy of vectors [n, dim], or NAME@VERSION of this store, scored alike",
    )
    neighbours: Count | None = Field(None, description="nearest rows of each reference vector")
    threshold: Similarity | None = Field(None, description="cosine to the closest reference vector")
    cells: Count | None = Field(None, description="cells, kept where one is nearest to a reference")

    @model_validator(mode="after")
    def _one_way(self) -> "RetrievalSettings":
        if sum(x is not None for x in (self.neighbours, self.threshold, self.cells)) != 1:
            raise ValueError(f"{self.reason}: give one of `neighbours`, `threshold` and `cells`")
        return self

    @property
    def files(self) -> dict[str, str]:
        return {"reference": self.reference} if self.reference.endswith(".npy") else {}


class PatchSettings(BaseModel):
    """Patches of each image that a plan leaves out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scorer: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="a score of the kind `patches`")
    keep: Share = Field(0.8, description="share of the patches that stays, the most important")


class QuantizationSettings(_OverVectors, _Sized):
    """Dataset Quantization on stored vectors (Zhou et al. 2023, arXiv:2308.10524)."""

    kind: Literal["quantization"] = "quantization"
    bins: Count = Field(10, description="bins of each cell")
    weight: Annotated[Number, Field(ge=0)] = Field(
        1.0, description="of being like what remains, against being unlike the bin"
    )
    cell_size: int = Field(1000, gt=0, le=20_000, description="rows among which pairs are compared")
    patches: PatchSettings | None = Field(
        None, description="patches to leave out of what is selected, for exports; null: none"
    )


Selector = Annotated[
    ConceptSettings
    | QuotaSettings
    | TopSettings
    | ClusterSettings
    | DensitySettings
    | RetrievalSettings
    | QuantizationSettings,
    Field(discriminator="kind"),
]


class SelectionSettings(BaseModel):
    """A sampling plan over the rows that verdicts keep: each selector sees what is still in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: tuple[Selector, ...] = Field(min_length=1, description="selectors, in order")
    seed: int = Field(0, description="of all draws")
    after: str | None = Field(
        None,
        pattern=r"^[^@/\s]+@[^@/\s]+/[^@/\s]+$",
        description="NAME@VERSION/SELECTION of this store: go on from its counts and centroids",
    )

    @property
    def patches(self) -> PatchSettings | None:
        """What its selectors say about patches."""
        found = (getattr(selector, "patches", None) for selector in self.plan)
        return next(filter(None, found), None)

    @model_validator(mode="after")
    def _reasons_differ(self) -> "SelectionSettings":
        reasons = [selector.reason for selector in self.plan]
        if sum(getattr(selector, "patches", None) is not None for selector in self.plan) > 1:
            raise ValueError("two selectors leave out patches: one of them can")
        for reason in reasons:
            if reasons.count(reason) > 1:
                raise ValueError(f"two selectors are called {reason!r}: give them a `name`")
            if reason in TAKEN:
                raise ValueError(f"{reason!r} is a reason of its own: call the selector otherwise")
        return self
