"""What an index is made of: light, so that a recipe loads without faiss."""

from typing import Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field

KindName = Literal["auto", "flat", "ivf_flat", "ivf_sq8", "ivf_pq", "ivf_rabitq", "hnsw"]


class IndexSettings(BaseModel):
    """Settings of an index over one embedding of a dataset version."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    embedding: str = Field(
        "clip/image",
        pattern=r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$",
        description="scorer and vector, `clip/image`; or score folder and vector, "
        "`clip-0123456789abcdef/image`",
    )
    kind: KindName = Field(
        "auto", description="auto: from the number of vectors, their dimension, memory and target"
    )
    dimensions: int = Field(
        0,
        ge=0,
        description="candidates are found by so many first dimensions, of an embedding trained "
        "for that (Matryoshka), and scored by all; 0: by all",
    )
    memory: ByteSize = Field(
        ByteSize(4 * 2**30), description="bytes that the opened index may take: 4GiB, 512MB"
    )
    lists: int = Field(0, ge=0, description="inverted lists; 0: four times the root of n")
    recall_target: float = Field(
        0.99, gt=0, le=1, description="recall@10 that probes and candidates are chosen for"
    )
    publish_below_target: bool = Field(
        False, description="make the index the latest one even if its recall is below the target"
    )
    after: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.-]+@[0-9a-f]+$",
        description="NAME@VERSION of an indexed version that this one grew from: its quantizer is "
        "used again, and the codes of shards that did not change",
    )
    queries: int = Field(512, ge=2, description="held-out queries that recall is measured with")
    seed: int = Field(0, description="of the training sample and the queries")
