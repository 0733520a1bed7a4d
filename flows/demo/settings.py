"""Settings of the demo corpus; light to import."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DefectSettings(_Settings):
    """The share of the pool's samples that carry each planted defect."""

    mismatched_caption: float = Field(
        default=0.20, ge=0, le=0.4, description="caption of another concept"
    )
    exact_duplicate: float = Field(
        default=0.10, ge=0, le=0.2, description="same bytes, another URL"
    )
    near_duplicate: float = Field(
        default=0.10,
        ge=0,
        le=0.2,
        description="re-encoded, resized, slightly cropped or brightened",
    )
    corrupt: float = Field(default=0.03, ge=0, le=0.1, description="file cut short or damaged")
    blank: float = Field(default=0.02, ge=0, le=0.1, description="one colour, or a placeholder")
    too_small: float = Field(default=0.02, ge=0, le=0.1, description="shorter side under 32 pixels")
    extreme_aspect: float = Field(
        default=0.02, ge=0, le=0.1, description="long side over 4 short sides"
    )
    evaluation_leak: float = Field(
        default=0.01, ge=0, le=0.1, description="copy of an evaluation image"
    )


class CorpusSettings(_Settings):
    """What the demo corpus holds; the same settings give the same bytes."""

    seed: int = Field(default=0, description="every random choice follows from it")
    per_concept: int | None = Field(
        default=None, ge=5, description="at most this many source images of each concept; null: all"
    )
    trusted: float = Field(
        default=0.20, gt=0, lt=0.5, description="share of the clean trusted split"
    )
    evaluation: float = Field(default=0.10, gt=0, lt=0.5, description="share of the held-out split")
    tars: int = Field(default=7, ge=1, le=64, description="WebDataset tars of the pool")
    parquets: int = Field(default=2, ge=1, le=64, description="Parquet files of the pool")
    folder: int = Field(
        default=120, ge=0, description="samples of the pool's image folder, at most"
    )
    defects: DefectSettings = Field(default_factory=DefectSettings, description="planted defects")

    @model_validator(mode="after")
    def _splits_leave_a_pool(self) -> Self:
        if self.trusted + self.evaluation > 0.7:
            raise ValueError("trusted + evaluation leave less than 30 % for the pool")
        return self
