"""Tags: names that keep artifacts of a store, `<store>/_tags/<name>`, each a file with a place."""

import re
from collections.abc import Mapping

from infra import filesystem
from infra.artifacts import MANIFEST
from infra.catalogue.nodes import TAGS
from infra.errors import SluiceError
from infra.filesystem import join
from infra.filesystem.entries import entries

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def read_tags(store: str) -> Mapping[str, str]:
    """The place that each tag of a store names."""
    files = [entry.url for entry in entries(join(store, TAGS)) if not entry.folder]
    found = zip(files, filesystem.read_many(files), strict=True)
    return {file.rpartition("/")[2]: data.decode().strip() for file, data in found if data}


def put_tag(store: str, name: str, place: str) -> None:
    """Tag the artifact at a place; SluiceError for a tag that names another one."""
    if not NAME.fullmatch(name):
        raise SluiceError(f"{name!r} is no name of a tag", "use letters, digits and any of _ . -")
    if not filesystem.exists(join(store, place, MANIFEST)):
        raise SluiceError(f"nothing is committed at {join(store, place)}", "check its name")
    if filesystem.put_if_absent(join(store, TAGS), name, place.encode()):
        filesystem.remove_empty(join(store, TAGS, filesystem.TEMPORARY))
        return
    there = filesystem.read_bytes(join(store, TAGS, name)).decode().strip()
    if there != place:
        raise SluiceError(
            f"the tag {name} names {there}",
            f"take it away first (`prefect run tag {name} --remove`), or choose another name",
        )


def remove_tag(store: str, name: str) -> None:
    """Take a tag away; what it named stays until gc finds no other reason to keep it."""
    url = join(store, TAGS, name)
    if not NAME.fullmatch(name) or not filesystem.exists(url):
        there = ", ".join(sorted(read_tags(store))) or "none"
        raise SluiceError(f"{store} has no tag {name}", f"there are: {there}")
    filesystem.remove_file(url)
