"""Options and defaults of DINOv3's Gram anchoring."""

from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from pretrain.declare import Declared, Needs
from pretrain.options.dinov2 import DECLARED as DINOV2
from pretrain.options.dinov2 import DinoV2Options


class DinoV3GramOptions(DinoV2Options):
    """Gram anchoring, Siméoni et al. 2025 (arXiv:2508.10104), the second stage of DINOv3.

    It goes on from a run of dinov2: `pretrained` is that run's folder, or released weights.
    """

    WEIGHTS: ClassVar[frozenset[str]] = frozenset({"gram_weights"})

    gram_start: int = Field(
        100, ge=0, description="updates before the Gram loss counts; 1,000,000 as published"
    )
    gram_ramp: int = Field(
        20,
        ge=0,
        description="updates over which its weight then rises along half a cosine; 1000 as "
        "published",
    )
    gram_weight: float = Field(2.0, ge=0, description="and stays; 1.5 in the high-resolution phase")
    gram_teacher: Literal["weights", "start", "average"] = Field(
        "start",
        description="whose patches anchor those of the student: an earlier teacher's "
        "(gram_weights); the teacher's as it is after gram_start updates, frozen; or those of the "
        "moving average itself, at every step",
    )
    gram_weights: str | None = Field(
        None,
        validate_default=True,
        description="folder of an earlier dinov2 run of this model, or its weight file",
    )
    gram_refresh_every: int | None = Field(
        None,
        gt=0,
        description="updates after which the teacher of that moment becomes the frozen one, "
        "counted from gram_start; 10,000 as published; unset: it stays the first",
    )
    gram_refreshes: int = Field(3, ge=0, description="times it is replaced at most")
    gram_size: int | None = Field(
        None,
        gt=0,
        description="pixels of the undistorted crops that the frozen teacher sees; twice the "
        "image size if unset, as published. Let `canvas` be as large",
    )
    gram_scope: Literal["image", "batch"] = Field(
        "image", description="tokens that are compared with each other: of one image, or of all"
    )
    gram_tokens: Literal["all", "masked", "unmasked"] = Field(
        "all", description="patches that are compared: all, or those (not) hidden from the student"
    )

    @field_validator("gram_weights")
    @classmethod
    def _one_source(cls, value: str | None, info: ValidationInfo) -> str | None:
        teacher = info.data.get("gram_teacher")
        if teacher == "weights" and not value:
            raise ValueError("gram_teacher is weights: give the folder of an earlier run")
        if teacher in ("start", "average") and value is not None:
            raise ValueError(f"gram_teacher is {teacher}: set it to weights, or leave these out")
        return value

    @field_validator("gram_refresh_every")
    @classmethod
    def _nothing_to_refresh(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("gram_teacher") == "average":
            raise ValueError("gram_teacher is average: that changes at every step by itself")
        return value

    @field_validator("gram_tokens")
    @classmethod
    def _as_many_in_each_image(cls, value: str, info: ValidationInfo) -> str:
        if value != "all" and info.data.get("gram_scope") == "image":
            raise ValueError(f"{value} patches are not as many in each image: set gram_scope batch")
        return value


DECLARED = Declared(
    options=DinoV3GramOptions,
    defaults=DINOV2.defaults,
    paper="Siméoni et al. 2025, arXiv:2508.10104",
    needs=Needs(least_batch=2),
    keeps_average=True,
    probe={"gram_start": 1},
    whole="its centre and its spread are those of the whole batch",
)
