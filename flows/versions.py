"""Dataset versions of the store that a recipe names: NAME@VERSION, or NAME@latest."""

import re
from collections.abc import Mapping, Sequence

from curation.takedown.list import takedown_lists
from infra import artifacts, filesystem
from infra.artifacts import MANIFEST, Artifact
from infra.dataset import LATEST, open_dataset
from infra.errors import SluiceError
from infra.filesystem import join
from infra.stage import Draft
from infra.withdrawn import WITHDRAWN_FILE, newest

HOW = "NAME@VERSION or NAME@latest"
_NAMED = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]*@([0-9a-f]+|{LATEST})")


def is_version(name: str) -> bool:
    """Whether a name is that of a version of the store, and not of something a recipe makes."""
    return _NAMED.fullmatch(name) is not None


def named_version(store: str, name: str, key: str) -> Artifact:
    """The version that `name` stands for now; `key` is the setting that names it.

    Raises SluiceError where there is none in the store.
    """
    dataset, _, version = name.partition("@")
    try:
        found = open_dataset(store, dataset if version == LATEST else name).artifact
    except SluiceError as error:
        raise SluiceError(f"{key} names {name}: {error.what}", _way_out(store, dataset)) from error
    if found.kind != "dataset":
        raise SluiceError(
            f"{key} names {name}, which is no dataset version but of the kind {found.kind!r}",
            f"name a dataset, as {HOW}",
        )
    return found


def _way_out(store: str, dataset: str) -> str:
    manifests = filesystem.list_files(join(store, dataset, "*", artifacts.MANIFEST))
    there = [f"{dataset}@{url.split('/')[-2]}" for url in manifests]
    known = f"name one that is there ({', '.join(there)}), " if there else ""
    return (
        f"{known}save it first (`hits.save_as({dataset!r})` in a notebook), give the --store that "
        "holds it, or take it out of the recipe"
    )


def standing(store: str, drafts: Sequence[Draft]) -> Draft:
    """What a split has in the store, of drafts of one dataset that obey ever fewer takedowns.

    The first that is committed, or whose place another took in a takedown: all takedowns that came
    later went through it. Where there is none, the first is to be made.
    """
    if not takedown_lists(store):
        return drafts[0]
    folder = drafts[0].url.rpartition("/")[0]
    files = filesystem.list_files(join(folder, "*", "*.json"))
    known = {url.split("/")[-2] for url in files if url.endswith((MANIFEST, WITHDRAWN_FILE))}
    for draft in drafts:
        if draft.spec.digest in known:
            made = artifacts.load(newest(draft.url))
            if made is not None:
                return Draft(made.url, made.spec)
    return drafts[0]


def check_distinct(digests: Mapping[str, str], key: str) -> None:
    """SluiceError where two names stand for one version, whose samples would come twice."""
    by_digest: dict[str, str] = {}
    for name, digest in digests.items():
        if digest in by_digest:
            raise SluiceError(
                f"{key} names one dataset version twice, as {by_digest[digest]} and as {name}",
                "leave one of them out, and add its share to that of the other",
            )
        by_digest[digest] = name
