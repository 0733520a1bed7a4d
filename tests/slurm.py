"""A Slurm cluster on this host: munge, a controller, and nodes with a port each.

with slurm(2) as made:
    made.command("sbatch", "script")

It needs Debian's slurm-wlm and munge, and no rights: its daemons run as whoever starts them.
"""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.s3 import free_port
from tests.services import started, until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # daemons lie where a plain user does not look
CONFIGURATION = """\
ClusterName=sluice
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,batch_sched_delay=1
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName=node{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 State=IDLE"


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


@dataclass(frozen=True)
class Slurm:
    folder: Path
    environment: Mapping[str, str] = field(repr=False)

    def command(self, *arguments: str, cwd: Path | None = None) -> str:
        run = subprocess.run(
            arguments, cwd=cwd, env=dict(self.environment), text=True, check=False,
            capture_output=True, timeout=60,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout.strip()

    def state(self, job: str) -> str:
        """What Slurm says of a job: RUNNING, COMPLETED, FAILED, ..."""
        told = self.command("scontrol", "show", "job", job)
        return next(word.partition("=")[2] for word in told.split() if word.startswith("JobState="))


@contextmanager
def slurm(nodes: int, **values: str) -> Iterator[Slurm]:
    """A cluster whose nodes have one processor each; values: for the environment of its jobs."""
    # A short path: sockets lie in it, whose names may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
    host, user = socket.gethostname().partition(".")[0], getpass.getuser()
    lines = [
        NODE.format(number=number, host=host, port=free_port()) for number in range(1, 1 + nodes)
    ]
    described = CONFIGURATION.format(
        host=host, user=user, folder=folder, port=free_port(), nodes="\n".join(lines)
    )
    (folder / "slurm.conf").write_text(described)
    (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
    (folder / "munge.key").chmod(0o600)
    (folder / "state").mkdir()
    values = {**os.environ, **values, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}
    made = Slurm(folder, values)
    munge = [
        "munged", "--foreground", "--force", f"--key-file={folder}/munge.key",
        f"--socket={folder}/munge.socket", f"--pid-file={folder}/munge.pid",
        f"--seed-file={folder}/munge.seed",
    ]  # fmt: skip
    daemons = [munge, ["slurmctld", "-D", "-i"]]
    daemons += [["slurmd", "-D", "-N", f"node{number}"] for number in range(1, 1 + nodes)]
    try:
        with ExitStack() as running:
            for number, daemon in enumerate(daemons):
                log = folder / f"{number}-{daemon[0]}.log"
                running.enter_context(started(log, values, *daemon))
            until("the nodes", lambda: idle(made) == nodes, folder / "1-slurmctld.log", 60)
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def idle(made: Slurm) -> int:
    run = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--states=idle", "--responding"],
        env=dict(made.environment), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return len(run.stdout.splitlines())
