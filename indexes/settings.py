"""What an index is made of: light, so that a recipe loads without faiss."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class IndexSettings(BaseModel):
    """Settings of an index over one embedding of a dataset version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding: str = Field(
        "clip/image",
        pattern=r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$",
        description="scorer and vector, `clip/image`; or score folder and vector, "
        "`clip-0123456789abcdef/image`",
    )
    kind: Literal["auto", "flat", "ivf_flat"] = Field(
        "auto", description="flat: exact; ivf_flat: inverted file; auto: flat up to 20,000 vectors"
    )
    lists: int = Field(0, ge=0, description="inverted lists; 0: four times the root of n")
    recall_target: float = Field(
        0.99, gt=0, le=1, description="recall@10 that the number of lists to probe is chosen for"
    )
    queries: int = Field(256, ge=2, description="held-out queries that recall is measured with")
    seed: int = Field(0, description="of the training sample and the queries")
