"""Settings of training a head. Light: imports no engine."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from curation.heads.card import Polarity
from curation.rules_settings import VectorName


def _of_images(vectors: str) -> str:
    if vectors.endswith("/text"):
        raise ValueError("a head reads vectors of images, such as clip/image, not of captions")
    return vectors


ImageVectors = Annotated[VectorName, AfterValidator(_of_images)]


class TrainHeadSettings(BaseModel):
    """What a head is trained on and how; the table and the version are given apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str = Field(
        description="column of labels: true, false, 0, 1; other numbers: regression; words: classes"
    )
    uid: str = Field("uid", description="column of uids")
    vectors: ImageVectors = Field("clip/image", description="vectors it reads, as SCORER/VECTOR")
    polarity: Polarity | None = Field(
        None, description="what a high score means; of several classes nothing is said"
    )
    units: str | None = Field(None, description="of its score; a probability or the label's name")
    hidden: tuple[Annotated[int, Field(gt=0, le=4096)], ...] = Field(
        (), max_length=4, description="widths of hidden layers with ReLU; none: a linear head"
    )
    threshold: float = Field(
        0.5, allow_inf_nan=False, description="at which precision and recall are told"
    )
    held_out: float = Field(0.2, gt=0, lt=1, description="share of labels kept for the figures")
    folds: int = Field(5, ge=2, le=20, description="of the cross-validation")
    seed: int = 0
