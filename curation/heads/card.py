"""What a head says of itself: the metadata of its file. Light: imports no engine."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Activation = Literal["none", "relu", "gelu", "tanh", "sigmoid"]
Output = Literal["none", "sigmoid", "softmax"]
CLASS_NAME = r"[a-z][a-z0-9_]{0,63}"
ClassName = Annotated[str, Field(pattern=f"^{CLASS_NAME}$")]
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
    polarity: Polarity | None = Field(
        None, description="what a high score means; of a softmax over classes nothing is said"
    )
    classes: tuple[ClassName, ...] = Field(
        default=(), description="of a softmax, in the order of its outputs; each is a column"
    )
    source: str = Field("", description="where it came from")
    training: dict[str, Any] = Field(
        default_factory=dict, description="labels, settings and held-out figures, if we trained it"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Card":
        softmax = self.output == "softmax"
        if softmax != bool(self.classes) or len(self.classes) == 1:
            raise ValueError("a softmax has two classes or more, and nothing else has classes")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("two classes have one name")
        if bool(self.classes) != (self.polarity is None):
            raise ValueError("a head says its polarity; a softmax over classes has none")
        return self

    @property
    def outputs(self) -> int:
        """Numbers that it gives for a vector."""
        return len(self.classes) or 1


def mistake(error: ValidationError) -> str:
    """The first thing that is wrong with a card."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]


def same_embedding(one: str, other: str) -> bool:
    """Whether two names are of the same model.

    OpenAI's weights are the same under an architecture's name with and without `-quickgelu`:
    open_clip gives them the activation they were trained with either way.
    """
    return _plain(one) == _plain(other)


def _plain(embedding: str) -> str:
    return embedding.strip().replace("-quickgelu/openai", "/openai")
