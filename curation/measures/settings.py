"""Settings of the measures of a version; light to import."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class MeasureSettings(BaseModel):
    """How a version is measured as a whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cells: int = Field(
        256,
        ge=2,
        le=65_536,
        description="k of k-means over the pool's image vectors; fewer where a cell would have "
        "less than ten samples",
    )
    iterations: int = Field(20, ge=1, description="of k-means, at most")
    fit: int = Field(65_536, ge=2, description="samples of the pool that k-means is fitted to")
    tail: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="the pool's smallest cells that hold at most this share of it are the tail; "
        "a version's largest cells, this share of all, are its head",
    )
    few: int = Field(20, ge=1, description="a cell with fewer kept samples than this is sparse")
    sample: int = Field(
        4096,
        ge=2,
        description="samples of diversity and CMMD; time grows with the square of it",
    )
    reference: Literal["evaluation", "trusted"] = Field(
        "evaluation", description="the split that CMMD compares with"
    )
    seed: int = Field(0, ge=0, description="of the choice of samples")
