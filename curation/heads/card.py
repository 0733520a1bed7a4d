"""What a head says of itself: the metadata of its file. Light: imports no engine."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Activation = Literal["none", "relu", "gelu", "tanh", "sigmoid"]
Output = Literal["none", "sigmoid"]
Polarity = Literal["higher is better", "higher is worse"]

EMBEDDING = (
    "what made the vectors it reads: an open_clip MODEL/PRETRAINED such as ViT-L-14/openai, a run "
    "as runs/NAME/DIGEST, or what `prefect run head show` prints"
)


class Card(BaseModel):
    """The metadata of a head, one JSON text under the key `KEY` of a safetensors file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    activations: tuple[Activation, ...] = Field(description="one for each linear layer, after it")
    output: Output = Field("none", description="what is applied last")
    dimension: int = Field(gt=0, description="numbers in a vector it reads")
    embedding: str = Field(min_length=1, description=EMBEDDING)
    units: str = Field(min_length=1, description='of its score, as "aesthetic score 1..10"')
    polarity: Polarity = Field(description="what a high score means")
    source: str = Field("", description="where it came from")
    training: dict[str, Any] = Field(
        default_factory=dict, description="labels, settings and held-out figures, if we trained it"
    )


def same_embedding(one: str, other: str) -> bool:
    """Whether two names are of the same model.

    OpenAI's weights are the same under an architecture's name with and without `-quickgelu`:
    open_clip gives them the activation they were trained with either way.
    """
    return _plain(one) == _plain(other)


def _plain(embedding: str) -> str:
    return embedding.strip().replace("-quickgelu/openai", "/openai")
