"""Settings of the synthetic sources."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


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
    maps: tuple[int, int] = Field((2, 4), description="fewest and most affine maps of a system")
    filling: float = Field(
        0.15, ge=0, le=0.9, description="least share of a 64 x 64 grid that a system must touch"
    )
    contraction: float = Field(
        0.99, gt=0, lt=1, description="largest singular value that any map may have"
    )
    colour: bool = Field(True, description="colour by hue; otherwise grey levels")
    background: Literal["clouds", "gradient", "black"] = Field(
        "clouds", description="what lies behind the fractal; clouds are diamond-square noise"
    )
    jitter: bool = Field(True, description="scale one map of the system a little per instance")
    zoom: bool = Field(True, description="move and scale the visible region per instance")
    flips: bool = Field(True, description="transpose, mirror and turn over at random")
    format: Literal["png", "jpg"] = Field("png", description="file format of the images")
    seed: int = Field(0, ge=0, description="seed of systems and instances")
    rows_per_shard: int = Field(500, ge=1, le=2**20, description="images in a shard")

    @model_validator(mode="after")
    def _check(self) -> "FractalSettings":
        fewest, most = self.maps
        if not 2 <= fewest <= most <= 8:
            raise ValueError(f"maps must be two numbers with 2 <= fewest <= most <= 8: {self.maps}")
        # Every map contributes at most 3 * contraction to the sigma factor, which needs the
        # lower end of its band, (5 + n) / 2, within reach.
        if 3 * fewest * self.contraction < (5 + fewest) / 2:
            raise ValueError(
                f"contraction {self.contraction} leaves no system of {fewest} maps: use at least "
                f"{(5 + fewest) / (6 * fewest):.2f}, or more maps"
            )
        return self

    @property
    def total(self) -> int:
        """Number of images."""
        return self.systems * self.instances
