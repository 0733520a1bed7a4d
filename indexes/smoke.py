"""Search a written index once, in a process that may crash.

python -m indexes.smoke URL SHA256 DIMENSION COUNT
"""

import sys

import numpy as np

from indexes.files import read_index
from indexes.kinds import lists_of, search


def main(url: str, sha256: str, dimension: int, count: int) -> str | None:
    """None when the index answers; else what is wrong with it."""
    index = read_index(url, sha256)
    if (index.d, index.ntotal) != (dimension, count):
        return f"it holds {index.ntotal} vectors of {index.d} dimensions"
    query = np.zeros((1, dimension), np.float32)
    query[0, 0] = 1
    _, found = search(index, query, min(10, count), lists_of(index))
    return None if (found >= 0).all() else "it finds fewer vectors than it holds"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
