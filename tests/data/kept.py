"""The kept stores of older code, and unpacking one."""

import tarfile
from pathlib import Path

KEPT = sorted(Path(__file__).parent.glob("store-v*.tar.xz"))


def unpack(kept: Path, folder: Path) -> Path:
    """The store, unpacked in `folder`, with its files' times."""
    with tarfile.open(kept) as tar:
        tar.extractall(folder, filter="data")
    return folder / "store"
