"""Where the columns of a batch lie in its mapped file, for the loops of metadata_kernels."""
# pyarrow has no type stubs:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from indexes.metadata_kernels import BITS, KIND, MISSING, OTHER, TEXT

Bytes = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int64]
Told = tuple[int, int, int, int, int]  # a row of a layout

ABSENT: Told = (MISSING, -1, 0, 0, 0)
UNTOLD: Told = (OTHER, -1, 0, 0, 0)


def plain_kind(kind: pa.DataType) -> int:
    """What loops know of a type: the bytes of a value, BITS, TEXT or OTHER."""
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return TEXT
    if not pa.types.is_primitive(kind):
        return OTHER
    return BITS if kind.bit_width == 1 else kind.bit_width // 8


def layout(schema: pa.Schema, rows: pa.RecordBatch, file: Bytes) -> Ids:
    """A row for each column of `schema`; none tells of anything outside of the file.

    rows: a batch of the file, once its columns were validated.
    """
    own = dict(zip(rows.schema.names, rows.columns, strict=True))
    place = (file.ctypes.data, len(file))
    told = [_column(own.get(field.name), field.type, place) for field in schema]
    return np.array(told, np.int64).reshape(-1, 5)


def unlaid(told: Ids) -> frozenset[int]:
    """The columns that loops cannot read."""
    return frozenset(np.flatnonzero(told[:, KIND] == OTHER).tolist())


def _column(column: pa.Array | None, wanted: pa.DataType, file: tuple[int, int]) -> Told:
    """UNTOLD where it has another type, or is not as it lies in the file: compressed, say.

    file: its address and size.
    """
    kind = plain_kind(wanted)
    if column is None and kind != OTHER:
        return ABSENT
    if column is None or kind == OTHER or column.type != wanted:
        return UNTOLD
    buffers, first = column.buffers(), column.offset
    starts = [_start(buffer, file) for buffer in buffers]
    if min(starts) < 0:
        return UNTOLD
    valid = -1 if buffers[0] is None else 8 * starts[0] + first
    if kind == TEXT:
        size = 0 if buffers[2] is None else buffers[2].size
        return (TEXT, valid, starts[2], starts[1] + 4 * first, size)
    data = 8 * starts[1] + first if kind == BITS else starts[1] + kind * first
    return (kind, valid, data, 0, 0)


def _start(buffer: pa.Buffer | None, file: tuple[int, int]) -> int:
    """The byte of the file where a buffer starts, 0 for an empty one; -1: it lies elsewhere."""
    if buffer is None or not buffer.size:
        return 0
    address, size = file
    start = buffer.address - address
    return start if 0 <= start <= size - buffer.size else -1
