"""What `make` stands on: the lock file and the two scripts in .ci."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_lock_holds_names_versions_and_hashes_and_nothing_else() -> None:
    line = re.compile(
        r"(?P<name>[a-z0-9][a-z0-9.-]*)(\[[a-z,-]+\])?==[A-Za-z0-9.+!-]+( ; [^;\\]+)? \\"
        r"|    --hash=sha256:[0-9a-f]{64}( \\)?"
    )
    for text in LOCK.splitlines():
        assert line.fullmatch(text), text


def test_the_lock_holds_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    locked = set(re.findall(r"^([a-z0-9.-]+)(?:\[.*\])?==", LOCK, flags=re.MULTILINE))
    for requirement in asked:
        name = re.split(r"[\[><=;~! ]", requirement)[0].lower().replace("_", "-")
        assert name in locked


def test_the_installer_is_taken_from_the_lock_with_its_hashes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    first, *rest = script("environment").pinned("uv").splitlines()
    assert re.fullmatch(r"uv==[\d.]+ \\", first)
    assert len(rest) > 3
    assert all(line.startswith("    --hash=sha256:") for line in rest)
    assert all(line.endswith("\\") for line in rest[:-1])
    assert not rest[-1].endswith("\\")


def once(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "once.py"), "demo", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".venv").mkdir()
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "main.py").write_text("one")
    (tmp_path / "lock").write_text("lock")
    return tmp_path


def test_a_command_runs_again_only_when_its_inputs_changed(project: Path) -> None:
    command = ["code", "lock", "--", "sh", "-c", "echo working >>log; echo 12 passed in 3s"]

    def runs() -> int:
        run = once(project, *command)
        assert run.returncode == 0
        assert run.stdout.splitlines()[-1] == "12 passed in 3s"
        return len((project / "log").read_text().splitlines())

    assert [runs(), runs()] == [1, 1]
    (project / "code" / "main.py").write_text("two")
    assert [runs(), runs()] == [2, 2]
    (project / "code" / "added.py").write_text("")
    assert [runs(), runs()] == [3, 3]
    (project / "code" / "added.py").unlink()
    (project / "code" / "__pycache__").mkdir()
    (project / "code" / "__pycache__" / "main.pyc").write_text("")
    assert [runs(), runs()] == [4, 4]
    (project / "lock").unlink()
    assert [runs(), runs()] == [5, 5]


def test_a_failed_command_is_run_again_and_its_code_handed_on(project: Path) -> None:
    for _ in range(2):
        run = once(project, "code", "--", "sh", "-c", "echo tried; exit 3")
        assert (run.returncode, run.stdout) == (3, "tried\n")


def test_a_command_whose_result_is_gone_is_run_again(project: Path) -> None:
    result = project / "report.html"
    command = ["code", "--", "sh", "-c", f"echo run >>log; touch {result}; echo report: {result}"]
    for expected in (1, 1):
        assert once(project, *command).stdout.splitlines()[-1] == f"report: {result}"
        assert (project / "log").read_text().count("run") == expected
    result.unlink()
    once(project, *command)
    assert (project / "log").read_text().count("run") == 2
    assert result.exists()


def test_make_help_names_every_target() -> None:
    run = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "check", "unit", "bench", "format", "lock", "clean"):
        assert re.search(rf"^make {target} +\S", run.stdout, flags=re.MULTILINE)
