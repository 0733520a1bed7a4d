"""Settings of the scores that a recipe asks for by name. Light: imports no engine."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from curation.rules_settings import VectorName

ScoreName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HeadSettings(_Settings):
    """A number from an embedding: a linear head or an MLP, from a safetensors file."""

    kind: Literal["head"]
    file: str = Field(description="safetensors file of the head, on any fsspec URL")
    vectors: VectorName = Field("clip/image", description="vectors it reads, as SCORER/VECTOR")


ScoreSettings = HeadSettings
