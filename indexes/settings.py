"""What an index is made of: light, so that a recipe loads without faiss."""

from pydantic import BaseModel, ConfigDict, Field, field_validator

from indexes.kinds import FLAT_LIMIT, KINDS


class IndexSettings(BaseModel):
    """Settings of an index over one embedding of a dataset version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding: str = Field(
        "clip/image",
        pattern=r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$",
        description="scorer and vector, `clip/image`; or score folder and vector, "
        "`clip-0123456789abcdef/image`",
    )
    kind: str = Field(
        "auto",
        description=f"{', '.join(KINDS)}; auto: flat up to {FLAT_LIMIT:,} vectors, then ivf_flat",
    )
    lists: int = Field(0, ge=0, description="inverted lists; 0: four times the root of n")
    recall_target: float = Field(
        0.99, gt=0, le=1, description="recall@10 that the number of lists to probe is chosen for"
    )
    queries: int = Field(256, ge=2, description="held-out queries that recall is measured with")
    seed: int = Field(0, description="of the training sample and the queries")

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind != "auto" and kind not in KINDS:
            raise ValueError(f"there is auto, {', '.join(KINDS)}")
        return kind
