"""Search a written index once, in a process that may crash.

python -m indexes.smoke FOLDER DIMENSION COUNT PATH:BYTES:SHA256 ...
"""

import sys

import numpy as np

from indexes.files import open_files
from indexes.kinds import candidates, inverted_file
from infra.filesystem import FilePart


def main(folder: str, dimension: int, count: int, known: list[str]) -> str | None:
    """None when the index answers; else what is wrong with it."""
    named = (text.rsplit(":", 2) for text in known)
    files = {path: FilePart(path, int(size), sha256) for path, size, sha256 in named}
    index = open_files(folder, files)
    if (index.d, index.ntotal) != (dimension, count):
        return f"it holds {index.ntotal} vectors of {index.d} dimensions"
    query = np.zeros((1, dimension), np.float32)
    query[0, 0] = 1
    lists = inverted_file(index)
    found = candidates(index, query, min(10, count), lists.nlist if lists else count)
    if (found < 0).any() or (found >= count).any():
        return "it finds other vectors than it holds"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
