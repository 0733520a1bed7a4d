"""Files of an index: written in a stream, and read only when they are what the manifest says.

faiss trusts what it reads; a damaged or foreign file can crash the process. So the hash of what it
parses is checked first, what it maps has the size it must have, and a new index must answer in a
process of its own before it is committed.

index.faiss    trained and empty, or a whole graph
lists.npy      how many vectors each inverted list has, int64
lists.bin      list after list: codes, then positions as int64; mapped
ids.npy        the id of each position, ascending; mapped
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexes.arrays import map_array
from indexes.kinds import ID, KINDS, as_searched, faiss, inverted_file
from infra import filesystem
from infra.artifacts import Artifact
from infra.errors import SluiceError
from infra.filesystem import FilePart, join, write_whole

INDEX, SIZES, LISTS, IDS = "index.faiss", "lists.npy", "lists.bin", "ids.npy"
LATEST = "latest.json"  # beside the indexes of a version: which of them is opened
AGAIN = "remove that index's folder and run `prefect run index` again"
TIMEOUT = 600.0  # seconds a smoke search may take
HASHED = 2**30  # bytes of a graph whose hash is checked at opening; above, its size alone


def write_index(index: Any, folder: str, path: str) -> FilePart:
    """Write a faiss index whole, in pieces of 1 MiB."""
    with write_whole(folder, path) as file:
        faiss().write_index(index, faiss().PyCallbackIOWriter(file.write, 2**20))
    return file.part(path)


@contextlib.contextmanager
def local_file(url: str) -> Generator[Path]:
    """A path of a file for the time of the block: its own, or that of a copy if it is remote."""
    if filesystem.is_local(url):
        path = Path(filesystem.resolve(url)[1])
        if not path.is_file():
            raise SluiceError(f"{url} is missing", AGAIN)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="sluice-index-") as folder:
        path = Path(folder) / url.rpartition("/")[2]
        try:
            with filesystem.open_read(url) as raw, path.open("wb") as local:
                shutil.copyfileobj(raw, local, 2**20)
        except FileNotFoundError as error:
            raise SluiceError(f"{url} is missing", AGAIN) from error
        yield path


def read_faiss(url: str, sha256: str, flags: int = 0) -> Any:
    """Read a faiss index whose bytes have this SHA-256; SluiceError for anything else."""
    with local_file(url) as path:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise SluiceError(f"{url} is not the file that its manifest names: damaged?", AGAIN)
        return _parse(path, url, flags)


def _parse(path: Path, url: str, flags: int) -> Any:
    try:
        index = faiss().read_index(str(path), flags)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise SluiceError(f"faiss cannot read {url}: {reason}", AGAIN) from error
    inner = faiss().downcast_index(index.index) if hasattr(index, "chain") else index
    found_class = type(inner).__name__
    if found_class not in {kind.faiss_class for kind in KINDS.values()}:
        raise SluiceError(f"{url} is a {found_class}, which Sluice does not write", AGAIN)
    return index


def open_faiss(artifact: Artifact) -> Any:
    """The index of an artifact, ready to be searched; None for one that has no files of faiss."""
    files = {file.path: file for part in artifact.parts for file in part.files}
    if INDEX not in files:
        return None
    return open_files(artifact.url, files)


def open_files(folder: str, files: dict[str, FilePart]) -> Any:
    """As `open_faiss`, of files by path that lie in a folder."""
    url, file = join(folder, INDEX), files[INDEX]
    if LISTS in files:
        index = read_faiss(url, file.sha256)
        sizes = sizes_of(folder)
        attach(index, join(folder, LISTS), sizes)
        return as_searched(index, sizes)
    mapped = faiss().IO_FLAG_MMAP_IFC
    if file.bytes <= HASHED:
        return read_faiss(url, file.sha256, mapped)
    with local_file(url) as path:
        _check_size(path, url, file.bytes)
        return _parse(path, url, mapped)


def sizes_of(folder: str) -> npt.NDArray[np.int64]:
    """How many vectors each list has."""
    return array_of(join(folder, SIZES), np.int64)


def array_of(url: str, dtype: Any) -> npt.NDArray[Any]:
    """A one-dimensional array of an index, mapped; SluiceError if it is damaged."""
    try:
        found = map_array(url)
    except (FileNotFoundError, ValueError) as error:
        raise SluiceError(f"{url} is missing or damaged: {error}", AGAIN) from error
    if found.ndim != 1 or found.dtype != dtype:
        raise SluiceError(f"{url} holds {found.dtype} {found.shape}", AGAIN)
    return found


def attach(index: Any, url: str, sizes: npt.NDArray[np.int64]) -> None:
    """Let an empty inverted file look into the lists of a file, mapped."""
    inner = inverted_file(index)
    if len(sizes) != inner.nlist or (sizes < 0).any():
        raise SluiceError(f"{url} has {len(sizes)} lists, its index {inner.nlist}", AGAIN)
    entry = inner.code_size + ID
    table = np.zeros((len(sizes), 3), np.uint64)  # of faiss: size, capacity, offset
    table[:, 0] = table[:, 1] = sizes
    table[1:, 2] = np.cumsum(sizes[:-1]) * entry
    lists = faiss().OnDiskInvertedLists()
    lists.nlist, lists.code_size, lists.read_only = len(sizes), inner.code_size, True
    lists.totsize = int(sizes.sum()) * entry
    lists.prefetch_nthread = 0  # threads started for each query cost more than they spare
    lists.lists.resize(len(sizes))
    faiss().memcpy(lists.lists.data(), faiss().swig_ptr(table), table.nbytes)
    with local_file(url) as path:
        _check_size(path, url, lists.totsize)
        lists.filename = str(path)
        lists.do_mmap()  # the map outlives its file
    inner.replace_invlists(lists, True)
    lists.this.disown()
    inner.ntotal = index.ntotal = int(sizes.sum())


def _check_size(path: Path, url: str, expected: int) -> None:
    if path.stat().st_size != expected:
        raise SluiceError(
            f"{url} has {path.stat().st_size} bytes, its manifest says {expected}: damaged?", AGAIN
        )


def smoke_search(folder: str, dimension: int, count: int, files: dict[str, FilePart]) -> None:
    """Search a written index in a process of its own; SluiceError if that fails or crashes."""
    root = str(Path(__file__).parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    known = [f"{file.path}:{file.bytes}:{file.sha256}" for file in files.values()]
    command = [sys.executable, "-m", "indexes.smoke", folder, str(dimension), str(count), *known]
    url = join(folder, INDEX)
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SluiceError(
            f"the new index {url} gave no answer in {TIMEOUT:.0f} s", AGAIN
        ) from error
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        why = f"signal {-done.returncode}" if done.returncode < 0 else said[0]
        raise SluiceError(
            f"the new index {url} does not answer a search: {why}",
            "look at the versions of faiss and numpy, then run the same command again",
        )
