"""`prefect run`: that Prefect's private names are still what the plugin takes them for."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows import environment
from tests.services import until

ROOT = Path(__file__).parents[2]
PREFECT = Path(sys.executable).with_name("prefect")
SMALL = [
    "--recipe",
    "your-shards",
    "--set",
    "data.rows_per_shard=4",
    "--set",
    "run.executor=inline",
]


def prefect(*arguments: str, folder: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    values = {name: value for name, value in os.environ.items() if name not in environment.QUIET}
    return subprocess.run(
        [str(PREFECT), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**values, "COLUMNS": "80", "PREFECT_PLUGINS_ENABLED": "true", **more},
        timeout=300,
    )


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of eight pictures with captions, in the format `folder` sources read."""
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(8):
        Image.new("RGB", (64, 48), (number * 30, 90, 120)).save(folder / f"{number}.jpg")
        (folder / f"{number}.txt").write_text(f"colour number {number}")
    return folder


@pytest.mark.slow
def test_prefect_lists_run_and_run_lists_the_flows() -> None:
    assert "│ run  " in prefect("--help").stdout
    shown = prefect("run", "--help")
    assert shown.stdout.startswith("Usage: prefect run COMMAND")
    for name in ("curate-and-pretrain", "ingest", "evaluate", "report", "explain"):
        assert f"│ {name} " in shown.stdout
    assert shown.stderr == ""


@pytest.mark.slow
def test_pyproject_enables_the_plugin_in_the_checkout() -> None:
    values = dict(os.environ)
    values.pop("PREFECT_PLUGINS_ENABLED", None)
    code = "from prefect.settings import get_current_settings as s; print(s().plugins.enabled)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=values,
    )
    assert run.stdout.strip() == "True"


@pytest.mark.slow
def test_a_variable_enables_the_plugin_in_any_folder(tmp_path: Path) -> None:
    shown = prefect("run", "ingest", "--help", folder=tmp_path)
    assert shown.stdout.startswith("Usage: prefect run ingest")
    without = prefect("run", "--help", folder=tmp_path, PREFECT_PLUGINS_ENABLED="false")
    assert without.returncode != 0


@pytest.mark.slow
def test_a_failure_is_the_same_as_without_the_plugin(tmp_path: Path) -> None:
    run = prefect("run", "report", "--store", str(tmp_path / "store"))
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.startswith("error: ")
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_prefect_itself_still_works_with_the_plugin_enabled() -> None:
    run = prefect("version")
    assert run.returncode == 0
    assert "Version:" in run.stdout


def test_only_prefect_run_is_quietened() -> None:
    from flows.plugin import is_prefect_run

    assert is_prefect_run(["/venv/bin/prefect", "run", "ingest"])
    assert is_prefect_run(["/venv/bin/prefect", "--profile", "mine", "run", "ingest"])
    assert is_prefect_run(["/venv/lib/prefect/__main__.py", "run", "ingest"])
    assert not is_prefect_run(["/venv/bin/prefect", "worker", "start"])
    assert not is_prefect_run(["/venv/bin/prefect", "flow-run", "execute"])
    assert not is_prefect_run(["/venv/bin/python", "run"])
    assert not is_prefect_run([])


@pytest.mark.prefect
def test_an_empty_flow_runs(tmp_path: Path) -> None:
    """Prefect has broken on newer FastAPI at the first flow: this is the first to know."""
    script = tmp_path / "empty.py"
    script.write_text(
        "from flows import environment\n"
        "environment.prepare()\n"
        "from prefect import flow\n"
        "@flow\n"
        "def empty():\n"
        "    return 7\n"
        "assert empty() == 7\n"
        "environment.quiet_exit()\n"
    )
    run = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=300
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.prefect
def test_prefect_run_does_a_flow_and_shows_only_our_lines(tmp_path: Path, pictures: Path) -> None:
    store = tmp_path / "store"
    source = f"data.pool=[{{folder: {pictures}}}]"
    run = prefect("run", "ingest", "--store", str(store), "--set", source, *SMALL)
    assert run.returncode == 0, run.stderr
    assert (store / "pool" / "latest").exists()
    assert "ingest pool: 2 shards in" in run.stderr
    for line in run.stderr.splitlines():
        assert line.startswith(("ingest", "how it stands: ")), run.stderr


@pytest.mark.prefect
def test_a_flow_that_fails_shows_one_message(tmp_path: Path, pictures: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "pool").write_text("I am a file: the first step cannot make its folder here")
    source = f"data.pool=[{{folder: {pictures}}}]"
    run = prefect("run", "ingest", "--store", str(store), "--set", source, *SMALL)
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    *progress, error, way_out = run.stderr.splitlines()
    assert progress[0].startswith("how it stands: ")
    assert progress[1:] == ["ingest pool: 2 shards to do"]
    assert error.startswith(f"error: cannot write {store}/pool/")
    assert way_out.startswith("  way out: ")


@pytest.mark.prefect
def test_the_server_of_a_run_that_is_killed_ends_too(tmp_path: Path) -> None:
    """Prefect starts one for a run that names none; only the run itself would have ended it."""
    values = {name: value for name, value in os.environ.items() if name not in environment.QUIET}
    arguments = [
        "run",
        "ingest",
        "--store",
        str(tmp_path / "store"),
        "--set",
        "run.executor=inline",
    ]
    with (tmp_path / "log").open("wb") as log:
        run = subprocess.Popen(
            [str(PREFECT), *arguments],
            cwd=ROOT, env={**values, "PREFECT_PLUGINS_ENABLED": "true"},
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    until("its flow", lambda: "demo corpus" in (tmp_path / "log").read_text(), tmp_path / "log")
    servers = [each for each in psutil.Process(run.pid).children() if "uvicorn" in each.cmdline()]
    run.kill()
    run.wait()
    assert servers and psutil.wait_procs(servers, timeout=30)[1] == []
