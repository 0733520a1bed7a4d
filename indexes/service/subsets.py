"""Saving rows that were found as a dataset version."""

from typing import Any

import numpy as np

from indexes.service import models
from indexes.service.errors import RefusalError
from indexes.service.live import Live
from indexes.subset import NAME, make_subset
from infra import filesystem
from infra.dataset import LATEST, Dataset, open_dataset
from infra.errors import SluiceError
from infra.filesystem import join

STAGE = "indexes.subset"


def save(live: Live, store: str, subset: models.Subset, vector: Any | None) -> dict[str, Any]:
    """Make the subset that is asked for; vector: of its question, where it has one."""
    _check_name(store, subset.name)
    if subset.uids is None:
        made = live.index.subset(
            subset.name, vector, where=subset.where, min_similarity=subset.min_similarity
        )
    else:
        made = _of_uids(live, subset)
    name, version = made.url.rstrip("/").split("/")[-2:]
    kept = sum(part.kept for part in made.artifact.parts)
    return {"dataset": name, "version": version, "rows": kept}


def _of_uids(live: Live, subset: models.Subset) -> Dataset:
    if subset.where is not None or subset.min_similarity is not None or subset.asks:
        raise SluiceError("uids go with no question and no condition", "give the one or the other")
    assert subset.uids is not None
    ids = live.columns.find(subset.uids)
    missing = [uid for uid, found in zip(subset.uids, ids.tolist(), strict=True) if found < 0]
    if missing:
        raise RefusalError(
            404,
            f"{len(missing)} of {len(ids)} uids are not in {live.name}: {missing[0]!r}",
            "take them from a search",
        )
    asked = f"{len(np.unique(ids))} rows chosen one by one"
    embedding = str(live.index.figures["embedding"])
    return make_subset(live.index.dataset, ids, subset.name, asked, embedding)


def _check_name(store: str, name: str) -> None:
    """A subset may renew a subset, and never take the place of any other dataset."""
    if not NAME.fullmatch(name) or not filesystem.exists(join(store, name, LATEST)):
        return  # `make_subset` tells what is wrong with a name
    if open_dataset(store, name).artifact.manifest["spec"]["stage"] != STAGE:
        raise SluiceError(f"there is a dataset {name} that is no subset", "choose another name")
