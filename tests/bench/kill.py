"""The demo, killed ten times: SIGKILL to the whole process group, then the same command again.

Every artifact must have the bytes it has where nothing was killed, and nothing may be left over:
no file of an unfinished artifact, no process. Writes results/kill.json.
Run: python tests/bench/kill.py [STORE]     (one in which the demo has run undisturbed)
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from record import keep

COMMAND = [str(Path(sys.executable).with_name("prefect")), "run", "curate-and-pretrain", "--store"]
KILLS = 10
LONGEST = 60.0  # seconds a run lives before it is killed
FAREWELL = 30.0  # seconds a killed run's processes may take to notice
UNFINISHED = ("_tmp", "_parts", "_work")


def contents(store: Path) -> dict[str, str]:
    """The content of every artifact of a store, by its place in it."""
    return {
        str(path.parent.relative_to(store)): json.loads(path.read_text())["content"]
        for path in sorted(store.rglob("manifest.json"))
    }


def started_since(moment: float) -> list[str]:
    """What runs of this environment, and is younger than `moment`."""
    found = []
    for process in psutil.process_iter(["create_time", "cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        ours = sys.prefix in command or command.startswith("ray::")
        if ours and process.info["create_time"] > moment:
            found.append(command[:100])
    return found


def kill_after(seconds: float, store: str) -> dict[str, Any]:
    """One run and its end: what was committed by then, and who was still there afterwards."""
    start = time.time()
    process = subprocess.Popen(
        [*COMMAND, store], start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + FAREWELL
    while (left := started_since(start)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return {
        "after": round(seconds, 1),
        "ended": process.returncode,
        "artifacts": len(contents(Path(store))),
        "processes_left": left,
    }


def main() -> None:
    moments = random.Random(11)
    with tempfile.TemporaryDirectory() as folder:
        store, undisturbed = Path(folder, "store"), Path(*sys.argv[1:] or [folder, "undisturbed"])
        subprocess.run([*COMMAND, str(undisturbed)], check=True, stdout=subprocess.DEVNULL)
        kills = [kill_after(moments.uniform(5, LONGEST), str(store)) for _ in range(KILLS)]
        for kill in kills:
            print(kill, flush=True)
        subprocess.run([*COMMAND, str(store)], check=True, stdout=subprocess.DEVNULL)
        ours, expected = contents(store), contents(undisturbed)
        differing = sorted(
            name for name in ours.keys() | expected.keys() if ours.get(name) != expected.get(name)
        )
        unfinished = [str(path) for path in store.rglob("_*") if path.name in UNFINISHED]
    result = {
        "kills": kills,
        "artifacts": len(ours),
        "differing": differing,
        "unfinished": unfinished,
    }
    keep("kill", result, "torch", "ray", "prefect")
    left = [kill["processes_left"] for kill in kills]
    assert not differing and not unfinished and not any(left)


if __name__ == "__main__":
    main()
