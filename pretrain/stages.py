"""Stages of a curriculum: what a run begins with, and when it goes on. Light, as settings are."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field


class Stage(BaseModel):
    """What lasts up to a share of the run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    until: float = Field(gt=0, le=1, description="share of the steps at which it ends")
    size: int | None = Field(
        None, gt=0, description="pixels of a side the encoder sees; unset: image_size"
    )
    strength: float = Field(
        1.0, ge=0, le=1, description="share of the strength of colour changes, as jitter"
    )


# EfficientTrain, Wang et al. 2023 (arXiv:2211.09703): sides of 160, 192 and 224 pixels, and five
# steps of the augmentation's magnitude, 1 to 9.
PUBLISHED_SIZE = 224
EFFICIENT_TRAIN = tuple(
    (number / 5, side, magnitude / 9)
    for number, side, magnitude in zip(
        range(1, 6), (160, 160, 160, 192, 224), (1, 3, 5, 7, 9), strict=True
    )
)


def efficient_train(image_size: int, unit: int) -> tuple[Stage, ...]:
    """Its stages for images of another size: sides in the same ratio, in whole `unit`s."""

    def side(published: int) -> int:
        return max(round(image_size * published / PUBLISHED_SIZE / unit), 1) * unit

    return tuple(
        Stage(until=until, size=min(side(size), image_size), strength=strength)
        for until, size, strength in EFFICIENT_TRAIN
    )


def fault(stages: Sequence[Stage], image_size: int, patch: int | None) -> str | None:
    """What is wrong with these stages; None where nothing is."""
    marks = [stage.until for stage in stages]
    if not marks or marks != sorted(set(marks)) or marks[-1] != 1:
        return f"curriculum ends its stages at {marks}: give rising shares of the run, the last 1"
    for size in (stage.size for stage in stages if stage.size):
        if size > image_size:
            return f"curriculum has a stage of {size} pixels, and image_size is {image_size}"
        if patch and size % patch:
            return (
                f"curriculum has a stage of {size} pixels, which the model's patch size {patch} "
                f"does not divide; use {max(size // patch, 1) * patch}"
            )
    return None
