"""What a version's successor takes over of its removals and its index, before the version goes.

The successor has the rows of the version under the same ids, some of them rejected by now.
"""
# pyarrow has no type stubs:
# pyright: reportUnknownMemberType=false

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt

from indexes.building import build_index
from indexes.files import IDS, array_of
from indexes.origin import published
from indexes.removed import FOLDER, removals
from indexes.settings import IndexSettings
from infra import artifacts, filesystem
from infra.artifacts import MANIFEST, Artifact
from infra.dataset import Dataset
from infra.filesystem import join, read_bytes, write_bytes
from infra.progress import Display
from infra.runner import Runner

Ids = npt.NDArray[np.int64]


def take_over_removals(old_url: str, url: str, but: Collection[str]) -> None:
    """Rows that users took out of the old version are out of its successor. but: names of files."""
    for file in removals(old_url):
        name = file.rpartition("/")[2]
        if name not in but:
            write_bytes(url, f"{FOLDER}/{name}", read_bytes(file))


def published_settings(version_url: str) -> IndexSettings | None:
    """What the index that a version published is made by; None where it has none."""
    index = published(version_url)
    if index is None:
        return None
    return IndexSettings.model_validate({**index.settings, "publish_below_target": True})


def build_after(
    old: Artifact, new: Artifact, folders: Mapping[str, str], runner: Runner, display: Display
) -> Artifact | None:
    """The index of a successor, by the quantizer of the old version's; None where that has none.

    Only shards that lost rows are encoded again. folders: of scores, by the names they had.
    Published whatever its recall is: it takes the place of one that was good enough.
    """
    settings = published_settings(old.url)
    if settings is None:
        return None
    folder, _, vector = settings.embedding.partition("/")
    changed = {
        "after": "@".join(old.url.rstrip("/").split("/")[-2:]),
        "embedding": f"{folders.get(folder, folder)}/{vector}",
    }
    return build_index(Dataset(new), settings.model_copy(update=changed), runner, display)


def held(version_url: str, ids: Ids) -> dict[str, int]:
    """How many of some ids, ascending, each index of a version still holds, hidden or not."""
    found: dict[str, int] = {}
    for url in filesystem.list_files(join(version_url, "index", "*", MANIFEST)):
        artifact = artifacts.load(url.rpartition("/")[0])
        if artifact is not None:
            own = array_of(artifact.path(IDS), np.int64)
            found[artifact.url] = int(np.isin(ids, own).sum())
    return found
