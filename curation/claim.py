"""A folder of one's own that is claimed for one export, so that two never mix in it."""

from infra import filesystem
from infra.artifacts import Spec
from infra.digests import canonical_json
from infra.errors import SluiceError
from infra.filesystem import join

CLAIM = "_export.json"  # what a folder is for, from before the first file is written


def claim(target: str, spec: Spec) -> None:
    """Claim the folder `target`, or find it claimed for the same; SluiceError otherwise."""
    text = canonical_json({"export": spec.digest})
    try:
        found = filesystem.read_bytes(join(target, CLAIM))
    except FileNotFoundError:
        found = b"" if filesystem.list_files(target) else None
    if found is None:
        filesystem.write_bytes(target, CLAIM, text)
        tidy(target)
    elif found != text:
        raise SluiceError(f"{target} holds something else", "name a folder that is empty or new")


def tidy(target: str) -> None:
    """Leave no folder of unfinished files in somebody's folder."""
    filesystem.remove_empty(join(target, filesystem.TEMPORARY))
