"""Whether a store can be used, before hours of work find out that it cannot."""

import contextlib
import uuid

from infra.errors import SluiceError
from infra.filesystem.folders import remove_empty, remove_file
from infra.filesystem.urls import join
from infra.filesystem.writing import TEMPORARY, put_if_absent


def check_writable(store: str) -> None:
    """Raise SluiceError for a store that refuses files, or does not refuse a second writer.

    All that keeps two runs from making the same version twice is that the store creates a file
    only where there is none. Some S3-compatible servers ignore that condition.
    """
    probe = f"{TEMPORARY}/probe-{uuid.uuid4().hex}"
    put_if_absent(store, probe, b"first")
    try:
        if put_if_absent(store, probe, b"second"):
            raise SluiceError(
                f"{store} overwrites a file where it was asked to create one only if there is "
                "none (If-None-Match: *): two runs at once could spoil each other's versions",
                "use a store that honours conditional writes, as those of AWS, Google and Azure "
                "do, update this server, or keep the store on a disk",
            )
    finally:
        # A key that may write need not be one that may delete.
        with contextlib.suppress(SluiceError, OSError):
            remove_file(join(store, probe))
    remove_empty(join(store, TEMPORARY))
