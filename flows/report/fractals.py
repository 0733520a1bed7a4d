"""The catalogue of a fractal dataset: a page with a picture of every system, up to some hundred."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from curation.synthetic.fractals import HOW, Fractals
from curation.synthetic.settings import FractalSettings
from indexes.pictures import thumbnail
from infra import artifacts, filesystem
from infra.artifacts import Artifact
from infra.drawn import has_drawer, open_drawer
from infra.filesystem import join

PAGE = "report/fractals.html"
SHOWN = 324  # systems: the page stays below some megabytes
EDGE = 96  # pixels of a picture
# The attractor itself, whole and upright, whatever instances make of it.
PLAIN = {"jitter": False, "zoom": False, "flips": False, "background": "black", "objects": None,
         "blur": 0.0, "size": EDGE, "points": 20_000}  # fmt: skip

Fill = Callable[..., str]


@dataclass(frozen=True)
class System:
    """One tile. filling: the share of the attractor's box that it fills."""

    number: int
    maps: int
    filling: float
    picture: str | None


@dataclass(frozen=True)
class Catalogue:
    """The page of one dataset version."""

    version: str
    settings: FractalSettings
    systems: Sequence[System]
    middle: float  # of the filling rates of those that are shown

    @property
    def settings_told(self) -> dict[str, object]:
        """The settings that decide what is drawn, those that are set."""
        told = self.settings.model_dump(mode="json", exclude=HOW)
        return {name: value for name, value in told.items() if value is not None}

    @property
    def images(self) -> str:
        """How many there are, in words."""
        if self.settings.objects:
            fewest, most = self.settings.objects
            return f"{self.settings.total:,} images of {fewest} to {most} systems each"
        return f"{self.settings.total:,} images, {self.settings.instances:,} of each system"


def write_catalogue(folder: str, url: str | None, fill: Fill) -> str | None:
    """Write the catalogue of a version beside the page of a run in `folder`; its name there.

    None where there is no version, or it shows no fractals of ours. fill: a template with values.
    """
    artifact = artifacts.load(url) if url else None
    found = artifact and catalogue(artifact)
    if found is None:
        return None
    page = fill("fractals.html.jinja", catalogue=found)
    filesystem.write_bytes(folder, PAGE, page.encode("utf-8", "replace"))
    filesystem.remove_tree(join(folder, filesystem.TEMPORARY))
    return PAGE.rpartition("/")[2]


def catalogue(artifact: Artifact) -> Catalogue | None:
    """Draws the systems of a version; None where it shows no fractals of ours."""
    drawer = open_drawer(artifact) if has_drawer(artifact.settings) else None
    if not isinstance(drawer, Fractals):
        return None
    settings = drawer.settings
    systems = [system(settings, number) for number in range(min(settings.systems, SHOWN))]
    middle = float(np.median([each.filling for each in systems]))
    return Catalogue(artifact.digest, settings, systems, middle)


def system(settings: FractalSettings, number: int) -> System:
    """One system of a dataset, drawn."""
    from curation.synthetic.ifs import TRIALS, draw_system, filling_rate
    from curation.synthetic.render import draw, encode

    drawn = draw_system(settings, number)
    plain = settings.model_copy(update=PLAIN)
    picture = thumbnail(encode(draw(plain, number, 0), "png"), EDGE)
    filling = filling_rate(drawn, *TRIALS[settings.parametrisation])
    return System(number, len(drawn.maps), filling, picture)
