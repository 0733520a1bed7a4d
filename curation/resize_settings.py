"""Settings of the pixels on the way in: resize, re-encoding, limits, blur; light to import.

The modes and their names are img2dataset's, so that its recipes mean the same here.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Mode = Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]
Format = Literal["jpg", "png", "webp"]


class ResizeSettings(BaseModel):
    """What becomes of an image between the download and the shard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode = Field(
        "no",
        description="no: as it is; keep_ratio: the smaller side becomes `size`; "
        "keep_ratio_largest: the larger side does; center_crop: keep_ratio, then the middle "
        "`size` x `size`; border: keep_ratio_largest, then white up to `size` x `size`. "
        "Made smaller by area averages, larger by Lanczos",
    )
    size: int | None = Field(None, ge=1, le=16_383, description="pixels; every mode but `no`")
    only_if_bigger: bool = Field(
        False,
        description="leave an image whose side (the one that `mode` looks at) is not over `size` "
        "as it is: not enlarged, and neither cropped nor padded",
    )
    min_size: int = Field(
        0, ge=0, description="smaller side in pixels; below it an image is rejected: too_small"
    )
    max_pixels: int = Field(
        2**26,
        ge=1,
        le=2**26,
        description="width x height, by the header and before anything is decoded; above it an "
        "image is rejected: too_many_pixels",
    )
    max_aspect: float = Field(
        float("inf"),
        ge=1,
        description="larger side / smaller side; above it an image is rejected: extreme_aspect",
    )
    format: Format = Field("jpg", description="of the images that are encoded again")
    quality: int | None = Field(
        None,
        ge=0,
        le=100,
        description="jpg and webp: 1 to 100 (95); png: how hard to compress, 0 to 9 (6)",
    )
    skip_reencode: bool = Field(
        True,
        description="keep the bytes of an image that is in `format`, upright and of the right "
        "size, and has no face to blur; its metadata and colours (grey, CMYK, alpha, 16 bits) "
        "then stay too",
    )
    blur: str | None = Field(
        None,
        description="column of face boxes to blur, a list of [x0, y0, x1, y1] in 0..1 of the "
        "upright image (DataComp: face_bboxes)",
    )
    verify: bool = Field(
        False, description="decode also the images whose bytes are kept, and reject the damaged"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "ResizeSettings":
        if self.mode != "no" and self.size is None:
            raise ValueError(f"mode {self.mode} needs a size in pixels")
        if self.mode == "no" and (self.size is not None or self.only_if_bigger):
            raise ValueError("size and only_if_bigger need a mode, such as keep_ratio")
        low, high = (0, 9) if self.format == "png" else (1, 100)
        if self.quality is not None and not low <= self.quality <= high:
            raise ValueError(f"quality of {self.format} is {low} to {high}, not {self.quality}")
        return self
