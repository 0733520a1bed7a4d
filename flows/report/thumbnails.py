"""Thumbnails of a few rows of a dataset, as data URIs: only the shards needed are touched."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from indexes.pictures import thumbnail
from infra.dataset import read_images
from infra.errors import SluiceError

EDGE = 96  # pixels, of the longer side
LIMIT = 640  # pictures in one report
BYTES = 3_500_000  # of data URIs in one report; pictures beyond it show as placeholders


@dataclass(frozen=True)
class Place:
    """A row of a dataset version."""

    url: str
    shard: int
    row: int


def thumbnails(places: Iterable[Place]) -> Mapping[Place, str]:
    """Data URIs of the pictures that can be decoded; first come, first served up to the caps.

    Of the shards that hold one, only these pictures are read.
    """
    wanted = list(dict.fromkeys(places))[:LIMIT]
    shards: dict[tuple[str, int], list[Place]] = {}
    for place in wanted:
        shards.setdefault((place.url, place.shard), []).append(place)
    found: dict[Place, str] = {}
    for (url, shard), group in shards.items():
        for row, data in _images(url, shard, [place.row for place in group]).items():
            if (uri := thumbnail(data, EDGE)) is not None:
                found[Place(url, shard, row)] = uri
    total, chosen = 0, {}
    for place in wanted:
        if place in found and total + len(found[place]) <= BYTES:
            total += len(found[place])
            chosen[place] = found[place]
    return chosen


def _images(url: str, shard: int, rows: Sequence[int]) -> Mapping[int, bytes]:
    try:
        return read_images(url, shard, rows)
    except SluiceError:
        return {}  # a report shows what there is; reading the dataset is what complains
