"""Settings of the synthetic sources."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_SHARDS = 2**16  # of a version, each with a line in its manifest


class FractalSettings(BaseModel):
    """Fractal images by iterated function systems; a class is a system, its instances vary.

    Parametrisation and defaults after Anderson & Farrell, "Improving Fractal Pre-training"
    (WACV 2022), scaled to small images; the filling rate is Kataoka et al.'s (FractalDB, 2020).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    systems: int = Field(25, ge=1, le=1_000_000, description="number of systems, i.e. classes")
    instances: int = Field(40, ge=1, le=1_000_000, description="images of each system")
    size: int = Field(64, ge=16, le=1024, description="side of an image in pixels")
    points: int = Field(20_000, ge=100, le=10_000_000, description="chaos-game points an image")
    parametrisation: Literal["svd", "fractaldb"] = Field(
        "svd",
        description="how maps are drawn: by singular values of a good sum, or as FractalDB's, all "
        "six numbers uniform (published with maps: [2, 7], filling: 0.2)",
    )
    maps: tuple[int, int] = Field((2, 4), description="fewest and most affine maps of a system")
    filling: float = Field(
        0.15, ge=0, le=0.9, description="least share of a 64 x 64 grid that a system must touch "
        "(fractaldb: of 128 x 128 with fewer points)",
    )  # fmt: skip
    contraction: float = Field(
        0.99,
        gt=0,
        lt=1,
        description="largest singular value that any map may have (fractaldb: the maps may have "
        "in the geometric mean, by their probabilities)",
    )
    fill: Literal["density", "graded", "patch", "patches"] = Field(
        "density",
        description="what is shown of the counts: their logarithm, themselves, one random 3 x 3 "
        "patch of the image around every point, or FractalDB's grey patch, another one at every "
        "point",
    )
    colour: bool = Field(True, description="colour by hue; otherwise grey levels")
    background: Literal["clouds", "gradient", "black"] = Field(
        "clouds", description="what lies behind the fractal; clouds are diamond-square noise"
    )
    jitter: bool = Field(True, description="scale one map of the system a little per instance")
    zoom: bool = Field(True, description="move and scale the visible region per instance")
    flips: bool = Field(True, description="transpose, mirror and turn over at random")
    blur: float = Field(
        0,
        ge=0,
        le=1,
        description="share of the images smoothed over 3 x 3 pixels; 0.5 as published",
    )
    objects: tuple[int, int] | None = Field(
        None,
        description="fewest and most systems in one image, each a label; (1, 5) as published; "
        "none: one system fills the image",
    )
    object_size: tuple[float, float] = Field(
        (0.15, 0.6), description="smallest and largest side of an object, in sides of the image"
    )
    stored: bool = Field(
        False, description="write the images as files, which readers other than training like "
        "better; else they are drawn whenever they are read, and take no room",
    )  # fmt: skip
    format: Literal["png", "jpg"] = Field("png", description="file format of stored images")
    seed: int = Field(0, ge=0, description="seed of systems and instances")
    rows_per_shard: int | None = Field(
        None, ge=1, le=2**20, description="images in a shard; unset: a thousandth, at least 500"
    )

    @model_validator(mode="after")
    def _check(self) -> "FractalSettings":
        fewest, most = self.maps
        if not 2 <= fewest <= most <= 8:
            raise ValueError(f"maps must be two numbers with 2 <= fewest <= most <= 8: {self.maps}")
        # Every map contributes at most 3 * contraction to the sigma factor, which needs the
        # lower end of its band, (5 + n) / 2, within reach.
        if self.parametrisation == "svd" and 3 * fewest * self.contraction < (5 + fewest) / 2:
            raise ValueError(
                f"contraction {self.contraction} leaves no system of {fewest} maps: use at least "
                f"{(5 + fewest) / (6 * fewest):.2f}, or more maps"
            )
        if self.objects is not None and not 1 <= self.objects[0] <= self.objects[1] <= 32:
            raise ValueError(
                f"objects must be two numbers with 1 <= fewest <= most <= 32: {self.objects}"
            )
        if -(-self.total // self.shard_rows) > MOST_SHARDS:
            raise ValueError(
                f"{self.total:,} images in shards of {self.shard_rows:,} are more than "
                f"{MOST_SHARDS:,} shards: use fewer images, or more in a shard"
            )
        if not 0.05 <= self.object_size[0] <= self.object_size[1] <= 1:
            raise ValueError(
                "object_size must be two shares with 0.05 <= smallest <= largest <= 1: "
                f"{self.object_size}"
            )
        return self

    @property
    def total(self) -> int:
        """Number of images."""
        return self.systems * self.instances

    @property
    def shard_rows(self) -> int:
        """Number of images in a shard."""
        return self.rows_per_shard or min(max(-(-self.total // 1000), 500), 2**20)
