"""Run a command unless its inputs are what they were when it last succeeded.

python .ci/once.py NAME INPUT... -- COMMAND...

Inputs are files and folders. What is kept of a success, in .venv: a hash of the inputs and the
last line of output, which is printed instead of running again. Where that line is a path, the
path must still be there.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
WHERE = "SLUICE_STORE"  # the one variable that changes what a command does


def fingerprint(roots: list[str]) -> str:
    """SHA-256 over the names and contents of all files under `roots`."""
    total = hashlib.sha256(os.environ.get(WHERE, "").encode())
    for root in map(Path, roots):
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            skipped = "__pycache__" in path.parts or ".ipynb_checkpoints" in path.parts
            if path.is_file() and not skipped:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                total.update(f"{path}\0{content}\n".encode())
    return total.hexdigest()


def run(command: list[str]) -> tuple[int, str]:
    """The exit code and the last line of a command, whose output is passed on as it comes."""
    environment = dict(os.environ)
    if sys.stdout.isatty():
        environment["PY_COLORS"] = "1"
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            last = COLOUR.sub("", line).strip() or last
    return process.returncode, last


def stands(line: str) -> bool:
    """Whether a kept line still holds: a path in it must exist, a URL cannot be asked."""
    path = re.search(r"(\S*://\S+|/\S.*)$", line)
    return path is None or ("://" not in path[0] and Path(path[0]).exists())


def main(name: str, inputs: list[str], command: list[str]) -> int:
    stamp = Path(".venv", f".once-{name}")
    before = fingerprint(inputs)
    if stamp.exists():
        kept = json.loads(stamp.read_text(encoding="utf-8"))
        if kept["inputs"] == before and stands(kept["last"]):
            print(f"make {name}: nothing has changed since it last succeeded\n{kept['last']}")
            return 0
    code, last = run(command)
    if code == 0:
        stamp.write_text(json.dumps({"inputs": before, "last": last}), encoding="utf-8")
    return code


if __name__ == "__main__":
    try:
        divider = sys.argv.index("--")
        sys.exit(main(sys.argv[1], sys.argv[2:divider], sys.argv[divider + 1 :]))
    except KeyboardInterrupt:
        sys.exit(130)
