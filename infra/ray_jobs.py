"""Jobs on a Ray cluster, over the REST interface of its dashboard; Ray itself is not imported.

A job is a command that runs on the cluster, under an id that says what it makes, and outlives who
submitted it. Asked for again under the same id, one that still runs is attached to; of one that has
ended another attempt is made. What Ray says of a job tells whether to wait, never whether the work
is done: that the store knows.

A job watches a file in the store, too, that whoever waits for it touches (`Watch`): of a job whose
file is old nobody wants the end, and the next run on that cluster stops it.
"""

import contextlib
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra import filesystem
from infra.digests import canonical_json
from infra.errors import SluiceError
from infra.filesystem import join
from infra.progress import duration

SCHEMES = ("http://", "https://")
ACTIVE = ("PENDING", "RUNNING")
LOOK = 1.0  # seconds between two looks at a job
TIMEOUT = 30.0  # seconds the dashboard may take to answer
PATIENCE = 60.0  # seconds without an answer after which the cluster is lost
LOG_RATE = 100_000  # bytes a second of log at most: the interface hands it out from its start only
STOPPING = 30.0  # seconds a job may take to stop: Ray kills it after three
BEAT = 30.0  # seconds between two touches of a job's watch
WATCHED = "watched.json"
UNWATCHED = 900.0  # seconds without one, after which nobody waits for a job
FAILURE = "sluice-failure: "  # starts the line in which a job's command says why it failed


def is_dashboard(address: str) -> bool:
    """Whether an address is that of a dashboard, which takes jobs, and not of Ray itself."""
    return address.startswith(SCHEMES)


@dataclass(frozen=True)
class Job:
    """What Ray says of a job: `status` is PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""

    id: str
    status: str
    message: str
    start: float  # seconds since 1970, by the cluster's clock
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        return self.status in ACTIVE


class UnreachableError(SluiceError):
    """The dashboard does not answer: it is not there, or not any more."""


class Jobs:
    """The jobs of the cluster whose dashboard is at `address` (http://HOST:8265).

    The token is Ray's own: RAY_AUTH_TOKEN, or the file RAY_AUTH_TOKEN_PATH. For a proxy in front
    RAY_JOB_HEADERS holds further headers, as JSON.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._headers = {"Content-Type": "application/json", **_headers()}

    def _call(self, method: str, path: str, body: object = None) -> Any:
        """The answer as JSON; None where there is no such job."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.address}/api/jobs/{path}", data, self._headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            if error.code == 404 and path:
                return None
            raise self._refused(error) from error
        except (OSError, ValueError) as error:
            raise UnreachableError(
                f"the Ray cluster at {self.address} does not answer: "
                f"{getattr(error, 'reason', error)}",
                "check run.address, which is that of the dashboard (http://HOST:8265), and that "
                "the cluster's head is up; finished shards are kept",
            ) from error

    def _refused(self, error: urllib.error.HTTPError) -> SluiceError:
        if error.code in (401, 403):
            token = "no token" if error.code == 401 else "another token than the cluster's"
            return SluiceError(
                f"the Ray cluster at {self.address} refuses us ({error.code}): we gave {token}",
                "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH, the file with the cluster's "
                "token (or RAY_AUTH_TOKEN), here as on its nodes",
            )
        said = error.read().decode(errors="replace").strip().splitlines()[-1:]
        if error.code >= 502:  # of a proxy whose Ray is away
            return UnreachableError(f"{self.address} answers {error.code}: {''.join(said)}")
        return SluiceError(
            f"the Ray cluster at {self.address} answers {error.code}: {''.join(said)[:500]}",
            "look into the log of its dashboard",
        )

    def check(self) -> None:
        """SluiceError where the cluster does not answer, or not to us."""
        self._call("GET", "")

    def find(self, name: str) -> Job | None:
        found = self._call("GET", name)
        return found and _job(found)

    def all(self) -> list[Job]:
        return [_job(each) for each in self._call("GET", "") if each.get("submission_id")]

    def log(self, name: str) -> str | None:
        """The whole log so far; None where the cluster has none to give at the moment."""
        try:
            return (self._call("GET", f"{name}/logs") or {}).get("logs")
        except UnreachableError:
            raise
        except SluiceError:  # its driver's node is not up yet, or no more
            return None

    def attach(self, name: str, command: str, metadata: Mapping[str, str]) -> tuple[Job, bool]:
        """The job that makes `name`, and whether it is a new one: else it ran already.

        Attempts count from 1: `name-1`, `name-2`. Two that ask at once get the same job, since Ray
        takes an id once only.
        """
        attempt = 1
        while True:
            own = f"{name}-{attempt}"
            found = self.find(own)
            if found is None:
                body = {"entrypoint": command, "submission_id": own, "metadata": dict(metadata)}
                try:
                    self._call("POST", "", body)
                except UnreachableError:
                    raise
                except SluiceError:  # somebody else was a moment faster, or it was no good
                    if self.find(own) is None:
                        raise
                    continue
                return Job(own, "PENDING", "", time.time(), metadata), True
            if found.active:
                return found, False
            attempt += 1

    def stop(self, name: str) -> bool:
        """End a job and all it started; whether it has ended within half a minute."""
        self._call("POST", f"{name}/stop", {})
        deadline = time.monotonic() + STOPPING
        while time.monotonic() < deadline:
            job = self.find(name)
            if job is None or not job.active:
                return True
            time.sleep(LOOK / 4)
        return False

    def follow(self, job: Job, say: Callable[[str], object], deadline: float) -> Iterator[Job]:
        """The job as it is now, again and again until it has ended; its log is said line by line.

        deadline: seconds since its start that the job may take; it is stopped then. A dashboard
        that is silent for a minute is UnreachableError. Raises what the job's command failed at.
        """
        log, told, due = "", 0, 0.0
        heard = time.monotonic()
        while True:
            try:
                found = self.find(job.id)
                if found and (time.monotonic() >= due or not found.active):
                    log = self.log(job.id) or log
                    told = _tell(log, told, say, whole=not found.active)
                    due = time.monotonic() + len(log) / LOG_RATE
                heard = time.monotonic()
            except UnreachableError:
                if time.monotonic() - heard > PATIENCE:
                    raise
                time.sleep(LOOK)
                continue
            if found is None:
                raise _ended(job.id, "the cluster does not know it any more", log)
            if not found.active and found.status != "SUCCEEDED":
                raise failure_in(log) or _ended(job.id, found.message, log)
            yield found
            if not found.active:
                return
            if time.time() - found.start > deadline:
                self.stop(job.id)
                raise SluiceError(
                    f"job {job.id} was stopped after {duration(deadline)}, its deadline",
                    "run the same command again to go on: finished shards are kept; or raise "
                    "run.deadline",
                )
            time.sleep(LOOK)


def _job(found: Mapping[str, Any]) -> Job:
    return Job(
        found["submission_id"],
        found["status"],
        found.get("message") or "",
        (found.get("start_time") or 0) / 1000,
        found.get("metadata") or {},
    )


def _headers() -> dict[str, str]:
    """What the environment says of us: the token, and headers for a proxy."""
    try:
        given = json.loads(os.environ.get("RAY_JOB_HEADERS") or "{}")
    except ValueError as error:
        raise SluiceError("RAY_JOB_HEADERS is not JSON", 'write {"NAME": "VALUE"}') from error
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        return given
    token = os.environ.get("RAY_AUTH_TOKEN")
    if not token:
        default = Path.home() / ".ray" / "auth_token"
        with contextlib.suppress(OSError):
            token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or default).read_text().strip()
    return {"Authorization": f"Bearer {token}", **given} if token else given


def _tell(log: str, told: int, say: Callable[[str], object], whole: bool) -> int:
    """Say the lines of a log beyond the first `told` characters; how many are told now."""
    end = len(log) if whole else log.rfind("\n") + 1
    for line in log[told:end].splitlines():
        if line.strip() and not line.startswith(FAILURE):
            say(line)
    return max(end, told)


def tell_failure(error: SluiceError) -> None:
    """Say, at the end of a job's log, what its command failed at."""
    print(FAILURE + json.dumps([error.what, error.way_out]), flush=True)


def failure_in(log: str) -> SluiceError | None:
    """What the command said it failed at, if it said so."""
    for line in reversed(log.splitlines()):
        if line.startswith(FAILURE):
            with contextlib.suppress(ValueError, TypeError):
                return SluiceError(*map(str, json.loads(line.removeprefix(FAILURE))))
    return None


def _ended(name: str, message: str, log: str) -> SluiceError:
    last = "\n    ".join(log.splitlines()[-5:])
    way_out = (
        "run the same command again to go on: finished shards are kept; if it says that there is "
        "no module `flows`, install Sluice on the cluster's nodes as infra/README.md says"
    )
    return SluiceError(f"job {name} ended: {message.splitlines()[0] if message else last}", way_out)


@dataclass(frozen=True)
class Watch:
    """The file `watched.json` of a folder, by which a job is known to be waited for.

    by: who waits, so that who ends for somebody else (a scheduler) knows what is its own.
    """

    folder: str

    def touch(self, by: str) -> None:
        filesystem.write_bytes(
            self.folder, WATCHED, canonical_json({"time": time.time(), "by": by})
        )

    def look(self) -> tuple[float, str]:
        """How many seconds ago somebody last said so, and who; for ever where nobody has."""
        try:
            found = filesystem.read_json(join(self.folder, WATCHED))
            return time.time() - found["time"], str(found["by"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return float("inf"), ""
