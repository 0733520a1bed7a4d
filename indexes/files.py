"""faiss files: written in a stream, and read only when they are what the manifest says.

faiss trusts what it reads; a damaged or foreign file can crash the process. So the hash is
checked first, and a new index must answer in a process of its own before it is committed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from indexes.kinds import KINDS, faiss
from infra import filesystem
from infra.errors import SluiceError
from infra.filesystem import FilePart, join, write_whole

AGAIN = "remove that index's folder and run `prefect run index` again"
TIMEOUT = 600.0  # seconds a smoke search may take


def write_index(index: Any, folder: str, path: str) -> FilePart:
    """Write a faiss index whole, in pieces of 1 MiB."""
    with write_whole(folder, path) as file:
        faiss().write_index(index, faiss().PyCallbackIOWriter(file.write, 2**20))
    return file.part(path)


def read_index(url: str, sha256: str) -> Any:
    """Read a faiss index whose bytes have this SHA-256; SluiceError for anything else."""
    if filesystem.is_local(url):
        return _read(Path(filesystem.resolve(url)[1]), url, sha256)
    with tempfile.TemporaryDirectory(prefix="sluice-index-") as folder:
        path = Path(folder) / "index.faiss"
        try:
            with filesystem.open_read(url) as raw, path.open("wb") as local:
                shutil.copyfileobj(raw, local, 2**20)
        except FileNotFoundError as error:
            raise SluiceError(f"{url} is missing", AGAIN) from error
        return _read(path, url, sha256)


def _read(path: Path, url: str, sha256: str) -> Any:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise SluiceError(f"{url} is missing", AGAIN) from error
    if found != sha256:
        raise SluiceError(f"{url} is not the file that its manifest names: damaged?", AGAIN)
    try:
        index = faiss().read_index(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise SluiceError(f"faiss cannot read {url}: {reason}", AGAIN) from error
    inner = faiss().downcast_index(index.index) if hasattr(index, "index") else index
    found_class = type(inner).__name__
    if found_class not in {kind.faiss_class for kind in KINDS.values()}:
        raise SluiceError(f"{url} is a {found_class}, which Sluice does not write", AGAIN)
    return index


def smoke_search(folder: str, file: FilePart, dimension: int, count: int) -> None:
    """Search a written index in a process of its own; SluiceError if that fails or crashes."""
    root = str(Path(__file__).parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "indexes.smoke", join(folder, file.path), file.sha256]
    try:
        done = subprocess.run(
            [*command, str(dimension), str(count)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SluiceError(
            f"the new index {join(folder, file.path)} gave no answer in {TIMEOUT:.0f} s", AGAIN
        ) from error
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        why = f"signal {-done.returncode}" if done.returncode < 0 else said[0]
        raise SluiceError(
            f"the new index {join(folder, file.path)} does not answer a search: {why}",
            "look at the versions of faiss and numpy, then run the same command again",
        )
