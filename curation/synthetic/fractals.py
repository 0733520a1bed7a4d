"""The fractal dataset: a draft, its items, and the work that writes one shard.

Images are numbered across systems first, so every shard holds every system and a reader that
takes shards in order sees all classes from the start.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from curation.synthetic.settings import FractalSettings
from infra.artifacts import Part, Spec
from infra.dataset import ShardWriter, make_uid, part_name
from infra.filesystem import join
from infra.stage import Draft, Item

DATASET = "fractals"
CODE = 2  # raise when the same settings give other pixels


def fractals_draft(store: str, settings: FractalSettings) -> Draft:
    """The dataset version that `settings` stand for; it has no parents."""
    spec = Spec("dataset", "fractals", settings.model_dump(mode="json"), code=CODE)
    return Draft(join(store, DATASET, spec.digest), spec)


def fractal_items(settings: FractalSettings) -> list[Item]:
    """One item a shard; its value is the shard's number."""
    shards = -(-settings.total // settings.rows_per_shard)
    return [Item(part_name(shard), shard) for shard in range(shards)]


@dataclass(frozen=True)
class FractalsWork:
    """Draws and writes one shard of the fractal dataset at `url`."""

    url: str
    settings: FractalSettings

    def __call__(self, shard: int, todo: list[str]) -> dict[str, Part]:
        first = shard * self.settings.rows_per_shard
        last = min(first + self.settings.rows_per_shard, self.settings.total)
        with ShardWriter(self.url, shard) as writer:
            for number in range(first, last):
                writer.add(*self.sample(shard, number - first, number))
        count = last - first
        part = Part(part_name(shard), tuple(writer.files), rows=count, kept=count)
        return dict.fromkeys(todo, part)

    def sample(self, shard: int, row: int, number: int) -> tuple[dict[str, Any], bytes]:
        """The row (schema ROWS) and the image file of image `number` of the dataset."""
        from curation.synthetic.render import draw, encode  # compiles: only where it is used

        instance, system = divmod(number, self.settings.systems)
        image = encode(draw(self.settings, system, instance), self.settings.format)
        caption = f"a fractal of system {system}"
        values = {
            "uid": make_uid(None, None, image),
            "shard": shard,
            "row": row,
            "status": "ok",
            "source": f"{DATASET}/{system}/{instance}",
            "caption": caption,
            "sha256": hashlib.sha256(image).hexdigest(),
            "format": self.settings.format,
            "width": self.settings.size,
            "height": self.settings.size,
            "meta": json.dumps({"system": system}),
        }
        return values, image
