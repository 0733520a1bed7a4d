"""Thumbnails of a few rows of a dataset, as data URIs: only the shards needed are touched."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from indexes.pictures import thumbnail
from infra.dataset import read_images
from infra.errors import SluiceError


@dataclass(frozen=True)
class Budget:
    """What one report may hold; pictures beyond it show as placeholders."""

    edge: int  # pixels, of a picture's longer side
    pictures: int
    bytes: int  # of data URIs


TILES = Budget(96, 640, 3_500_000)
STEPS = Budget(80, 600, 1_500_000)  # of strips by score


@dataclass(frozen=True)
class Place:
    """A row of a dataset version."""

    url: str
    shard: int
    row: int


def thumbnails(places: Iterable[Place], budget: Budget = TILES) -> Mapping[Place, str]:
    """Data URIs of the pictures that can be decoded; first come, first served up to the budget.

    Of the shards that hold one, only these pictures are read.
    """
    wanted = list(dict.fromkeys(places))[: budget.pictures]
    shards: dict[tuple[str, int], list[Place]] = {}
    for place in wanted:
        shards.setdefault((place.url, place.shard), []).append(place)
    found: dict[Place, str] = {}
    for (url, shard), group in shards.items():
        for row, data in _images(url, shard, [place.row for place in group]).items():
            if (uri := thumbnail(data, budget.edge)) is not None:
                found[Place(url, shard, row)] = uri
    total, chosen = 0, {}
    for place in wanted:
        if place in found and total + len(found[place]) <= budget.bytes:
            total += len(found[place])
            chosen[place] = found[place]
    return chosen


def _images(url: str, shard: int, rows: Sequence[int]) -> Mapping[int, bytes]:
    try:
        return read_images(url, shard, rows)
    except SluiceError:
        return {}  # a report shows what there is; reading the dataset is what complains
