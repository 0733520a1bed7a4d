"""Thumbnails of a few rows of a dataset, as data URIs: only the shards needed are touched."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from indexes.pictures import thumbnail
from infra import filesystem
from infra.dataset import part_name, sample_key
from infra.filesystem import join
from infra.shards import IMAGE_EXTENSIONS, read_tar

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

    Only shards that hold one are read, each up to the last one wanted; only these are decoded.
    """
    wanted = list(dict.fromkeys(places))[:LIMIT]
    shards: dict[tuple[str, int], list[Place]] = {}
    for place in wanted:
        shards.setdefault((place.url, place.shard), []).append(place)
    found: dict[Place, str] = {}
    for (url, shard), group in shards.items():
        names = {sample_key(shard, place.row): place for place in group}
        for key, data in read_images(url, shard, set(names)).items():
            if (uri := thumbnail(data, EDGE)) is not None:
                found[names[key]] = uri
    total, chosen = 0, {}
    for place in wanted:
        if place in found and total + len(found[place]) <= BYTES:
            total += len(found[place])
            chosen[place] = found[place]
    return chosen


def read_images(url: str, shard: int, keys: set[str]) -> dict[str, bytes]:
    """The image bytes of some keys of a shard; keys without an image are left out."""
    found: dict[str, bytes] = {}
    last = max(keys, default="")
    try:
        with filesystem.open_read(join(url, "shards", f"{part_name(shard)}.tar")) as file:
            for sample in read_tar(file, IMAGE_EXTENSIONS):
                if sample.key in keys:
                    found[sample.key] = next(iter(sample.members.values()), b"")
                if sample.key >= last:  # keys sort like rows
                    break
    except FileNotFoundError:
        return found  # a report shows what there is; reading the dataset is what complains
    return found
