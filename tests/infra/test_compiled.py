"""Compiled loops: what becomes of their files costs a compilation, never an answer."""

import fcntl
import importlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from infra.compiled import Kept, compiled

ROOT = Path(__file__).parents[2]
SOURCE = """
from infra.compiled import compiled

@compiled
def twice(x):
    return x + x
"""
CALL = "import loops; print(loops.twice({0}), *loops.twice.stats.cache_hits.values())"
MODULES = [
    "curation.scores.kernels",
    "curation.scores.reductions",
    "curation.synthetic.kernels",
    "curation.synthetic.painting",
    "indexes.band_kernels",
    "indexes.hamming_kernels",
]


@pytest.fixture
def loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module with a loop whose files lie in tmp_path/cache."""
    (tmp_path / "loops.py").write_text(SOURCE)
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "loops", raising=False)
    return importlib.import_module("loops")


def again(loops: ModuleType) -> ModuleType:
    """As another process sees it."""
    return importlib.reload(loops)


def files(folder: Path, kind: str) -> list[Path]:
    return sorted(folder.glob(f"cache/**/*.{kind}"))


def hits(loops: ModuleType) -> int:
    return sum(loops.twice.stats.cache_hits.values())


def test_machine_code_is_kept(tmp_path: Path, loops: ModuleType) -> None:
    assert (loops.twice(21), hits(loops)) == (42, 0)
    assert (again(loops).twice(21), hits(loops)) == (42, 1)
    assert len(files(tmp_path, "nbc")) == len(files(tmp_path, "nbi")) == 1


def test_a_folder_that_is_gone_is_made_again(tmp_path: Path, loops: ModuleType) -> None:
    shutil.rmtree(tmp_path / "cache")
    assert loops.twice(21) == 42
    assert files(tmp_path, "nbc")


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path, loops: ModuleType) -> None:
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("in the way, for root too")
    assert loops.twice(21) == 42


def test_a_function_without_a_file_is_compiled_all_the_same() -> None:
    scope: dict[str, Any] = {}
    exec("def double(x):\n    return 2 * x", scope)
    assert compiled(scope["double"])(21) == 42


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("left", [b"", b"\x80", b"nonsense"])
def test_broken_files_are_replaced(
    tmp_path: Path, loops: ModuleType, kind: str, left: bytes
) -> None:
    loops.twice(21)
    for path in files(tmp_path, kind):
        path.write_bytes(left)
    assert (again(loops).twice(21), hits(loops)) == (42, 0)
    assert (again(loops).twice(21), hits(loops)) == (42, 1)


def test_no_other_process_looks_between_index_and_code(
    loops: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache: Kept = loops.twice._cache
    save, locked = cache._cache_file._save_data, []

    def watched(*given: Any) -> None:
        folder = os.open(cache.cache_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(folder)
        locked.append(True)
        save(*given)

    monkeypatch.setattr(cache._cache_file, "_save_data", watched)
    assert loops.twice(21) == 42
    assert locked == [True]


@pytest.mark.slow
def test_processes_that_start_together_keep_the_code_of_each_type(tmp_path: Path) -> None:
    (tmp_path / "loops.py").write_text(SOURCE)
    values = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    values["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(ROOT)])
    given = {"21": "42", "1.5": "3.0", "2j": "4j"}

    def start(argument: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CALL.format(argument)]
        return subprocess.Popen(command, env=values, stdout=subprocess.PIPE, text=True)

    started = [(start(argument), result) for argument, result in 2 * list(given.items())]
    for process, result in started:
        assert process.communicate()[0].split()[0] == result
    for argument, result in given.items():
        assert start(argument).communicate()[0].split() == [result, "1"]


@pytest.mark.parametrize("name", MODULES)
def test_loops_call_loops_of_their_own_file_alone(name: str) -> None:
    """numba does not see a change in another file: it would go on with the old code."""
    module = importlib.import_module(name)
    loops = {key: each for key, each in vars(module).items() if hasattr(each, "py_func")}
    assert loops
    for key, each in loops.items():
        assert each.py_func.__module__ == name, key


def test_a_picture_compiles_each_loop_once() -> None:
    """Each set of types takes a second; pictures may be of any size, writable or not."""
    from curation.scores import kernels, pixels, reductions
    from curation.scores.hash import reduced
    from curation.scores.image import statistics

    for shape in ((1, 1, 3), (70, 130, 3), (300, 90, 3)):
        for writable in (True, False):
            image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
            image.flags.writeable = writable
            statistics(image), reduced([image]), pixels.descriptor(image)
    for module in (kernels, reductions):
        for key, loop in vars(module).items():
            assert len(getattr(loop, "signatures", [])) <= 1, key


def test_other_threads_run_while_a_loop_does() -> None:
    spin(1)
    thread = threading.Thread(target=spin, args=(5 * 10**8,))
    thread.start()
    thread.join(0.01)
    assert thread.is_alive()  # so this one has not waited for its end
    thread.join()


@compiled
def spin(count: int) -> int:
    """About half a second for 5 * 10**8: a chain that no compiler shortens."""
    found = np.uint64(count)
    for _ in range(count):
        found ^= found << np.uint64(13)
        found ^= found >> np.uint64(7)
    return int(found)
