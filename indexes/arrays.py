"""Arrays in .npy files: mapped where they are local, and no file stays open for it."""
# pyarrow has no type stubs:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import errno
import io
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra import filesystem
from infra.errors import SluiceError
from infra.filesystem import FilePart, write_whole

HEADER = 4096  # bytes that hold the header of any array of ours

Array = npt.NDArray[Any]


def write_array(folder: str, path: str, array: Array) -> FilePart:
    """Write an array whole; the same array gives the same bytes."""
    with write_whole(folder, path) as file:
        file.write(header(array.dtype, array.shape))
        if array.size:
            file.write(np.ascontiguousarray(array).data.cast("B"))
    return file.part(path)


def header(dtype: np.dtype[Any], shape: Sequence[int]) -> bytes:
    """What stands in a .npy file before the numbers, in C order."""
    head = io.BytesIO()
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
    np.lib.format.write_array_header_1_0(head, facts | {"shape": tuple(shape)})
    return head.getvalue()


def read_header(head: bytes) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, type and the byte where the numbers start; ValueError for what is no such file."""
    stream = io.BytesIO(head)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"a .npy file of version {version}")
    read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
    shape, fortran, dtype = read(stream)
    if dtype.hasobject or (fortran and len(shape) > 1):
        raise ValueError("an array of Python objects, or in Fortran's order")
    return shape, dtype, stream.tell()


def map_array(url: str) -> Array:
    """A .npy file, read only: mapped if local, else read whole.

    Raises FileNotFoundError, or ValueError for what is no such file or was cut short.
    """
    if filesystem.is_local(url):
        # Arrow's map outlives its file, where numpy's would hold one open for each shard.
        with pa.memory_map(filesystem.resolve(url)[1]) as source:
            data: Any = source.read_buffer()
    else:
        data = filesystem.read_bytes(url)
    held = memoryview(data)
    shape, dtype, start = read_header(bytes(held[:HEADER]))
    count = int(np.prod(shape))
    if len(held) != start + count * dtype.itemsize:
        raise ValueError(f"{len(held)} bytes for an array {shape} of {dtype}")
    return np.frombuffer(held, dtype, count, start).reshape(shape)


def aside(blocks: Iterable[Array], columns: int, dtype: npt.DTypeLike) -> Array:
    """The rows of all blocks [n, columns], mapped from a nameless file in the temporary folder.

    However many there are, they take memory that the system has back when it needs it. SluiceError
    where that folder has no room.
    """
    with tempfile.TemporaryFile() as file:
        try:
            for block in blocks:
                file.write(np.ascontiguousarray(block, dtype).data.cast("B") if block.size else b"")
            file.flush()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise SluiceError(
                f"{tempfile.gettempdir()} has no room for the vectors to train on: {error}",
                "make room there, or set TMPDIR to a folder that has some",
            ) from error
        rows = file.tell() // (columns * np.dtype(dtype).itemsize)
        if not rows:
            return np.empty((0, columns), dtype)
        return np.memmap(file, dtype, "r", shape=(rows, columns))
