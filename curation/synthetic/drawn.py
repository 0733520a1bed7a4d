"""Versions of drawn samples: nothing but a manifest, or the same samples written with files."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.artifacts import Part
from infra.dataset import ShardWriter, part_name
from infra.drawn import drawn_spec, find_drawer
from infra.filesystem import join
from infra.stage import Draft, Item


def drawn_draft(
    store: str, drawer: str, settings: Mapping[str, Any], rows: int, form: str | None = None
) -> Draft:
    """The version of the dataset named like its drawer, see `infra.drawn.drawn_spec`."""
    spec = drawn_spec(drawer, settings, find_drawer(drawer, settings).code, rows, form)
    return Draft(join(store, drawer, spec.digest), spec)


def drawn_items(total: int, rows: int) -> list[Item]:
    """One item a shard: the number of its first sample, and of the one after its last."""
    starts = range(0, total, rows)
    return [
        Item(part_name(shard), (shard, start, min(start + rows, total)))
        for shard, start in enumerate(starts)
    ]


@dataclass(frozen=True)
class DrawnWork:
    """Makes one shard of a version: draws its samples and writes them, or only counts them.

    form: as of the draft.
    """

    url: str
    drawer: str
    settings: Mapping[str, Any]
    form: str | None = None

    def __call__(self, item: tuple[int, int, int], todo: list[str]) -> dict[str, Part]:
        shard, first, last = item
        if self.form is None:
            if first == 0:
                find_drawer(self.drawer, self.settings).draw(0)  # now, and not within a training
            part = Part(part_name(shard), (), rows=last - first, kept=last - first)
            return dict.fromkeys(todo, part)
        with ShardWriter(self.url, shard) as writer:
            for number in range(first, last):
                writer.add(*self.sample(shard, number - first, number))
        part = Part(part_name(shard), tuple(writer.files), rows=last - first, kept=last - first)
        return dict.fromkeys(todo, part)

    def sample(self, shard: int, row: int, number: int) -> tuple[dict[str, Any], bytes]:
        """The row (schema ROWS) and the image file of sample `number`."""
        drawer, form = find_drawer(self.drawer, self.settings), self.form or "png"
        pixels, told = drawer.draw(number), drawer.tell(number)
        image = drawer.encode(pixels, form)
        values = {
            "uid": told.uid,
            "shard": shard,
            "row": row,
            "status": "ok",
            "source": told.source,
            "caption": told.caption,
            "sha256": hashlib.sha256(image).hexdigest(),
            "format": form,
            "width": pixels.shape[1],
            "height": pixels.shape[0],
            "meta": told.meta,
        }
        return values, image

    def extra(self, parts: Mapping[str, Sequence[Part]]) -> Mapping[str, Mapping[str, Any]]:
        """What makes the content of a version without files its own."""
        return {} if self.form else {name: {"draws": dict(self.settings)} for name in parts}
