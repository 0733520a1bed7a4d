"""Fractals as a source: the drawer that training asks, and the dataset version.

Images are numbered across systems first, so every shard holds every system, as far as it reaches,
and a reader that takes shards in order sees all classes from the start.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.synthetic.drawn import DrawnWork, drawn_draft, drawn_items
from curation.synthetic.settings import FractalSettings
from infra.digests import digest
from infra.drawn import Classes, Told
from infra.stage import Draft, Item

DATASET = "fractals"
CODE = 4  # raise when the same settings give other pixels
HOW = {"stored", "format", "rows_per_shard"}  # settings that no pixel depends on


class Fractals:
    """Draws the images of `settings`, see `infra.drawn.Drawer`.

    A class is a system. Where images show several (`objects`), they have a list of them.
    """

    code = CODE

    def __init__(self, settings: FractalSettings) -> None:
        self.settings = settings
        # How many there are changes no image, but for the systems that scenes choose among.
        free = {"instances"} | ({"systems"} if settings.objects is None else set())
        shown = settings.model_dump(mode="json", exclude=HOW | free)
        self._name = digest([CODE, shown])

    @property
    def size(self) -> tuple[int, int]:
        return self.settings.size, self.settings.size

    @cached_property
    def classes(self) -> Classes:
        several = self.settings.objects is not None
        names = [str(system) for system in range(self.settings.systems)]
        return Classes("labels" if several else "system", several, names)

    def tell(self, number: int) -> Told:
        if self.settings.objects is None:
            instance, system = divmod(number, self.settings.systems)
            source = f"{DATASET}/{system}/{instance}"
            caption, fields = f"a fractal of system {system}", {"system": system}
        else:
            from curation.synthetic.scene import shown  # compiles: only where it is used

            systems = [str(system) for system in shown(self.settings, number)]
            source = f"{DATASET}/scene/{number}"
            caption, fields = f"fractals of systems {', '.join(systems)}", {"labels": systems}
        uid = hashlib.sha256(f"{self._name}/{source}".encode()).hexdigest()[:32]
        return Told(uid, caption, json.dumps(fields), source)

    def draw(self, number: int) -> npt.NDArray[np.uint8]:
        if self.settings.objects is None:
            from curation.synthetic.render import draw

            instance, system = divmod(number, self.settings.systems)
            return draw(self.settings, system, instance)
        from curation.synthetic.scene import draw_scene

        return draw_scene(self.settings, number)[0]

    def encode(self, pixels: npt.NDArray[np.uint8], form: str) -> bytes:
        from curation.synthetic.render import encode

        return encode(pixels, form)


def drawer(settings: Mapping[str, Any]) -> Fractals:
    """What the entry point names."""
    return Fractals(FractalSettings.model_validate(dict(settings)))


def own_settings(settings: FractalSettings) -> dict[str, Any]:
    """The settings that decide which images there are."""
    return settings.model_dump(mode="json", exclude=HOW)


def fractals_draft(store: str, settings: FractalSettings) -> Draft:
    """The dataset version that `settings` stand for; it has no parents."""
    form = settings.format if settings.stored else None
    return drawn_draft(store, DATASET, own_settings(settings), settings.shard_rows, form)


def fractal_items(settings: FractalSettings) -> list[Item]:
    """One item a shard."""
    return drawn_items(settings.total, settings.shard_rows)


def fractals_work(url: str, settings: FractalSettings) -> DrawnWork:
    """Makes the shards of the version at `url`."""
    form = settings.format if settings.stored else None
    return DrawnWork(url, DATASET, own_settings(settings), form)
