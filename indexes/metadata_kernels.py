"""Values of chosen rows, out of a mapped file into new columns, compiled (numba).

A file is its bytes. A layout [columns, 5] tells of each column its kind and where in the file it
lies: KIND, VALID (the bit that tells whether row 0 is there; -1: every row is), DATA (the byte of
row 0; the bit, of BITS), and of TEXT also OFFSETS (the byte of row 0's offset) and SIZE (bytes of
all text). A kind above 0 is the bytes of a value.
"""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled

KIND, VALID, DATA, OFFSETS, SIZE = range(5)
MISSING, BITS, TEXT, OTHER = 0, -1, -2, -3

Bytes = NDArray[np.uint8]
Ids = NDArray[np.int64]

loop = partial(compiled, nogil=True)


@loop
def find_rows(ids: Ids, wanted: Ids, rows: Ids) -> Any:
    """rows[i]: where wanted[i] stands in ids; both ascend. How many are there before one is not.

    ids [1 or more] ascend by 1 or more a row, so that few rows are searched where few are left out.
    """
    low = 0
    for i in range(len(wanted)):
        high = min(len(ids), low + wanted[i] - ids[low] + 1)
        low = max(low, len(ids) - 1 - (ids[-1] - wanted[i]))
        while low < high:
            middle = (low + high) >> 1
            if ids[middle] < wanted[i]:
                low = middle + 1
            else:
                high = middle
        if low >= len(ids) or ids[low] != wanted[i]:
            return i
        rows[i] = low
    return len(wanted)


@loop
def bit(file: Any, place: Any) -> Any:
    """0 or 1."""
    return (file[place >> 3] >> (place & 7)) & 1


@loop
def offset_at(file: Any, place: Any) -> Any:
    """Four bytes, little-endian: they lie at any place. One below 0 becomes one beyond 2^31."""
    found = np.int64(0)
    for k in range(4):
        found |= np.int64(file[place + k]) << np.int64(8 * k)
    return found


@loop
def copy(source: Any, target: Any) -> None:
    """Bytes; of two slices the compiler knows that it may take several at a time."""
    for k in range(len(target)):
        target[k] = source[k]


@loop
def gather(
    file: Bytes,
    layout: Ids,
    chosen: Ids,
    rows: Ids,
    places: Ids,
    starts: Ids,
    values: Bytes,
    valid: Any,
    nulls: Ids,
    begins: Ids,
    sizes: Ids,
) -> Any:
    """Value i of a chosen column, of row rows[i], goes to places[i] of its new column.

    valid [columns, n]: which have a value; nulls [columns]: how many more have none. starts
    [columns]: the byte of values where a new column starts; a bit becomes a byte. Of text its
    number among begins, sizes [texts, n]: the byte of the file, and how many. What is not there
    is left as it was. False where text is not within its column.
    """
    for c in range(len(chosen)):
        column, start = layout[chosen[c]], starts[c]
        kind, data = column[KIND], column[DATA]
        for i in range(len(rows)):
            row, place = rows[i], places[i]
            there = kind != MISSING and (column[VALID] < 0 or bit(file, column[VALID] + row) == 1)
            valid[c, place] = there
            if not there:
                nulls[c] += 1
            elif kind == TEXT:
                begin = offset_at(file, column[OFFSETS] + 4 * row)
                end = offset_at(file, column[OFFSETS] + 4 * row + 4)
                if not begin <= end <= column[SIZE]:
                    return False
                begins[start, place], sizes[start, place] = data + begin, end - begin
            elif kind == BITS:
                values[start + place] = bit(file, data + row)
            else:
                source, target = data + row * kind, start + place * kind
                copy(file[source : source + kind], values[target : target + kind])
    return True


@loop
def lay_texts(sizes: Ids, offsets: Any, targets: Ids, most: int) -> Any:
    """offsets [texts, n + 1], targets [texts, n]: where each text starts in its column, in all.

    Bytes of all; a column of more than `most` has none of them, and a last offset of -1.
    """
    total = 0
    for t in range(len(sizes)):
        size = sizes[t].sum()
        if size > most:
            sizes[t] = 0
        first = total
        for i in range(sizes.shape[1]):
            offsets[t, i] = total - first
            targets[t, i] = total
            total += sizes[t, i]
        offsets[t, -1] = -1 if size > most else size
    return total


@loop
def copy_texts(
    file: Bytes, begins: Ids, sizes: Ids, targets: Ids, places: Ids, texts: Bytes
) -> None:
    """texts[targets[t, place]:] = the bytes of each text t of the file at places."""
    for t in range(len(begins)):
        for place in places:
            begin, target, size = begins[t, place], targets[t, place], sizes[t, place]
            copy(file[begin : begin + size], texts[target : target + size])
