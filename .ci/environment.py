"""Build .venv from requirements.lock: names, versions and hashes, and nothing else.

Runs on the Python that will be in the environment, with nothing installed.
"""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

OLDEST = (3, 11)
VENV = Path(".venv")
PYTHON = VENV / "bin" / "python"
LOCK = Path("requirements.lock")
# For this environment alone: `prefect run` in any folder, and no tracking by Prefect, which
# would start before any line of ours is read.
DEFAULTS = {"PREFECT_PLUGINS_ENABLED": "true", "DO_NOT_TRACK": "1"}


def fail(what, way_out):
    sys.exit("error: " + what + "\n  way out: " + way_out)


def call(*command):
    sys.stdout.flush()
    return subprocess.call([str(word) for word in command]) == 0


def create():
    """The environment itself, unless it is there and whole, on a Python that is still there."""
    if PYTHON.exists() and call(PYTHON, "-c", "import pip"):
        return
    print("building .venv with Python " + sys.version.split()[0])
    if not call(sys.executable, "-m", "venv", "--clear", VENV):
        shutil.rmtree(str(VENV), ignore_errors=True)
        fail(
            "this Python cannot build a virtual environment",
            "install its venv module (Debian and Ubuntu: apt install python3-venv), then again",
        )


def pinned(name):
    """The lines of the lock that pin one package with its hashes."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(name + "=="))
    end = start
    while lines[end].endswith("\\"):
        end += 1
    return "\n".join(lines[start : end + 1]) + "\n"


def install():
    """What the lock names; by uv, which is several times faster than pip, where it can."""
    print("installing what requirements.lock names: a minute or two, 8 GB")
    pip = (PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    bootstrap = VENV / "uv.lock"
    bootstrap.write_text(pinned("uv"), encoding="utf-8")
    # Bytecode now, once, and not at the first start of every command.
    sync = ("pip", "sync", "--quiet", "--compile-bytecode", "--require-hashes", "--python", PYTHON)
    done = call(*pip, "--require-hashes", "-r", bootstrap) and call(
        VENV / "bin" / "uv", *sync, LOCK
    )
    if not done:
        # uv does not read the indexes and proxies that pip is set up for.
        print("uv could not do it: pip takes over, and takes longer")
        if not call(*pip, "--require-hashes", "-r", LOCK):
            fail(
                "the packages of requirements.lock could not be installed",
                "see the message above: mostly the network, a full disk, or a Python for which "
                "some package has no wheel (then: make PYTHON=/path/to/python3.12 ...)",
            )
    if not call(*pip, "--no-deps", "--no-build-isolation", "--editable", "."):
        fail("Sluice itself could not be installed", "see the message above")


def set_defaults():
    site = sysconfig.get_path("purelib", scheme="venv", vars={"base": str(VENV)})
    lines = [f"os.environ.setdefault({name!r}, {value!r})" for name, value in DEFAULTS.items()]
    Path(site, "sluice_environment.pth").write_text(
        "import os; " + "; ".join(lines) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    if sys.version_info < OLDEST:
        fail(
            "Sluice needs Python 3.11 or newer, and this is " + sys.version.split()[0],
            "make PYTHON=/path/to/python3.12 ...",
        )
    create()
    install()
    set_defaults()
