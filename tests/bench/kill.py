"""500 kills over repeated runs of the default recipe, small: always the same bytes, no orphan.

The store is S3 behind a proxy. A run goes on while, at random moments, something of it ends:

    run         the process that drives it; its workers must notice by themselves
    machine     all its processes at once
    worker      one of its worker processes
    connection  every request to the object store that waits for an answer, and new ones for a while
    node        all processes of a node of the Ray cluster; another one joins

A run that died, or gave up, is started again by the same command until the recipe is done. Then
every artifact must have the bytes it has where nothing was killed, every sample of the pool must be
accounted for once, no process may be left, and gc must find all that the store should not have.
Runs drive their workers in processes, on a Ray cluster of two nodes, or through Prefect.
Run: python tests/bench/kill.py [KILLS] [--on]      writes results/kill.json after every run, and
with --on goes on from it.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from infra import filesystem  # noqa: E402
from infra.dataset import open_dataset  # noqa: E402
from tests.bench.record import RESULTS, keep  # noqa: E402
from tests.cluster import Cluster, cluster  # noqa: E402
from tests.faults import Proxy  # noqa: E402
from tests.flows.conftest import SMALL  # noqa: E402
from tests.s3 import S3, environment  # noqa: E402

KILLS = 500
SEED = 11
A_RUN = 40  # kills at most, so that it comes to an end
PAUSE = 1.5  # seconds between two kills, on average
DOWN = 3.0  # seconds at most for which the object store cannot be reached
FAREWELL = 40.0  # seconds in which the processes of a run that was killed have to end
PATIENCE = 900.0  # seconds in which a run that nobody kills must end
TARGET = "curate-and-pretrain"
IN_PROCESSES = {"run": 2, "machine": 1, "worker": 5, "connection": 5}
ON_RAY = {"run": 1, "worker": 3, "connection": 3, "node": 3}
SETTINGS = ("cluster", "processes", "processes", "prefect", "processes", "cluster", "processes")


def drive(store: str, overrides: Sequence[str]) -> None:
    """The recipe, without Prefect."""
    from flows import environment as prepared
    from flows.main import Options, execute, prepare
    from infra.errors import SluiceError
    from infra.progress import PlainDisplay

    prepared.prepare()
    try:
        recipe = prepare(Options(None, tuple(overrides), store))
        execute(recipe, TARGET, PlainDisplay(), lambda step, session: step.run(session))
    except SluiceError as error:
        raise SystemExit(f"error: {error}") from None


def files_of(store: str) -> dict[str, bytes]:
    """Every manifest of a store, by its place."""
    found = filesystem.list_files(filesystem.join(store, "**", "manifest.json"))
    base = store.rstrip("/") + "/"
    return {url.removeprefix(base): filesystem.read_bytes(url) for url in found}


def contents(store: str) -> dict[str, str]:
    """The content of every artifact of a store, by its place."""
    return {place: json.loads(data)["content"] for place, data in files_of(store).items()}


def balance(store: str) -> dict[str, int]:
    """The samples of the pool and of the curated version: none may lack or come twice."""
    pool, curated = (open_dataset(store, name) for name in ("pool", "curated"))
    uids = [uid for shard in pool.shards for uid in pool.rows(shard)["uid"].to_pylist()]
    told = [uid for shard in curated.shards for uid in curated.rows(shard)["uid"].to_pylist()]
    images = [(n, sample.row) for n in curated.shards for sample in curated.samples(n)]
    assert sorted(uids) == sorted(told), "samples were lost or doubled"
    assert len(images) == curated.artifact.totals["kept"] == len({*images})
    return {"samples": len(uids), "kept": len(images)}


def gc(store: str) -> list[str]:
    """What gc takes away of what nobody needs, with patience for nothing; nothing may be left."""
    from infra.catalogue.gc import Retention, collect, plan_gc
    from infra.catalogue.survey import survey
    from infra.progress import SilentDisplay

    now = Retention(unfinished=0.0)
    plan = plan_gc(survey(store), now)
    collect(plan, SilentDisplay())
    assert not plan_gc(survey(store), now).removals
    return [f"{removal.what} {removal.place}" for removal in plan.removals]


def strangers(store: str) -> list[str]:
    """Files of no artifact that are neither a report, a page of a run nor a pointer."""
    from infra.catalogue.survey import survey

    catalogue = survey(store)
    marks = (f"/{filesystem.TEMPORARY}/", "/_parts/", "/_work/")
    found = filesystem.list_files(filesystem.join(store, "**", "*"))
    assert all(node.state == "committed" for node in catalogue.nodes.values())
    return [url for url in found if any(mark in url for mark in marks)]


@dataclass
class Run:
    """One run of the recipe, from its first start to its end."""

    store: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                list(self.command), env=dict(self.environment), start_new_session=True,
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def family(self) -> list[psutil.Process]:
        """Its processes: those of its session, whoever their parent is now."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.process.pid:
                    found.append(process)
            except ProcessLookupError:
                continue
        return found

    def workers(self) -> list[psutil.Process]:
        return [each for each in self.family() if each.pid != self.process.pid]

    def farewell(self) -> list[str]:
        """The commands of its processes that are still there after a while."""
        deadline = time.monotonic() + FAREWELL
        while (left := self._alive()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def _alive(self) -> list[str]:
        found = []
        for process in self.workers():
            try:
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline())[:120])
            except psutil.Error:
                continue
        return found


@dataclass
class Campaign:
    """Kills at random, over runs in one setting after the other."""

    s3: S3
    proxy: Proxy
    rng: random.Random
    folder: Path
    counts: Counter[str] = field(default_factory=Counter[str])
    by_setting: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    gave_up: list[str] = field(default_factory=list[str])
    orphans: Counter[str] = field(default_factory=Counter[str])
    runs: int = 0
    ray: Cluster | None = None

    def one(self, setting: str, most: int, expected: Mapping[str, str]) -> None:
        """A run from an empty store to the end, with so many kills at most."""
        store = self.s3.url(f"kills-{self.runs}")
        run = Run(store, self._command(setting, store), self._environment(setting),
                  self.folder / f"{self.runs}-{setting}.log")  # fmt: skip
        begin, before = time.monotonic(), self.counts.copy()
        self._to_the_end(run, setting, most)
        assert (left := run.farewell()) == [], left
        found = contents(store)
        differing = {name for name in {*found, *expected} if found.get(name) != expected.get(name)}
        assert not differing, f"{store}: {sorted(differing)}"
        figures = balance(store)
        self.orphans.update(each.partition(" ")[0] for each in gc(store))
        assert not (left := strangers(store)), left
        assert contents(store) == found and not self.s3.unfinished()
        self.s3.files().rm(store.removeprefix("s3://"), recursive=True)
        self.proxy.seen.clear()
        self.runs += 1
        took = self.counts - before
        self.by_setting.setdefault(setting, Counter()).update(took)
        print(f"{setting}: {dict(took)} in {time.monotonic() - begin:.0f} s, {figures}", flush=True)

    def _command(self, setting: str, store: str) -> list[str]:
        chosen = [*SMALL, "run.workers=2", "run.executor=local"]
        if setting == "cluster":
            assert self.ray
            chosen[-1:] = ["run.executor=ray", f"run.address={self.ray.address}"]
        if setting == "prefect":
            prefect = str(Path(sys.executable).with_name("prefect"))
            sets = [word for each in chosen for word in ("--set", each)]
            return [prefect, "run", TARGET, "--store", store, *sets]
        return [sys.executable, __file__, "drive", store, *chosen]

    def _environment(self, setting: str) -> Mapping[str, str]:
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        cluster = self.ray.environment if self.ray and setting == "cluster" else {}
        return {**os.environ, **cluster, **own}

    def _to_the_end(self, run: Run, setting: str, most: int) -> None:
        kinds, kills, stops = ON_RAY if setting == "cluster" else IN_PROCESSES, 0, 0
        run.start()
        started = time.monotonic()
        while True:
            pause = self.rng.expovariate(1 / PAUSE) if kills < most else PATIENCE
            try:
                run.process.wait(timeout=pause)
            except subprocess.TimeoutExpired:
                assert kills < most, f"{run.log}: it hangs"
                (kind,) = self.rng.choices([*kinds], [*kinds.values()])
                if not self._kill(kind, run, time.monotonic() - started):
                    continue
                kills += 1
                self.counts[kind] += 1
                with run.log.open("ab") as log:
                    log.write(f"---- {kind} killed\n".encode())
                if kind not in ("run", "machine"):
                    continue
            else:
                if run.process.returncode == 0:
                    return
                stops += 1
                self.gave_up.append(_last_line(run.log))
                assert stops < most, self.gave_up
            assert (left := run.farewell()) == [], left
            run.start()
            started = time.monotonic()

    def _kill(self, kind: str, run: Run, age: float) -> bool:
        """Whether there was something to kill."""
        kill: Mapping[str, Callable[[], bool]] = {
            # Only what has begun: a process that imports has nothing to lose.
            "run": lambda: age > 6 and self._end(run.process.pid),
            "machine": lambda: age > 6 and self._end_all(run),
            "worker": lambda: self._end_one(run),
            "connection": lambda: self.proxy.sever(self.rng.uniform(0.1, DOWN), 2.0) > 0,
            "node": lambda: age > 8 and self._end_node(),
        }
        return kill[kind]()

    def _end(self, pid: int) -> bool:
        os.kill(pid, signal.SIGKILL)
        return True

    def _end_all(self, run: Run) -> bool:
        os.killpg(run.process.pid, signal.SIGKILL)
        return True

    def _end_one(self, run: Run) -> bool:
        workers = list(self._ray_workers()) if self.ray else run.workers()
        if not workers:
            return False
        try:
            self.rng.choice(workers).kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def _ray_workers(self) -> Iterator[psutil.Process]:
        """Ray's processes that do work: they are called ray:: and what they do.

        Not its agents, with which a node ends.
        """
        assert self.ray
        for node in self.ray.nodes[1:]:
            try:
                for process in psutil.Process(node.process.pid).children(recursive=True):
                    name = " ".join(process.cmdline()[:1])
                    if name.startswith("ray::") and not name.endswith(("IDLE", "Agent")):
                        yield process
            except psutil.Error:
                continue

    def _end_node(self) -> bool:
        assert self.ray
        node = self.rng.choice(self.ray.nodes[1:])
        node.kill()
        self.ray.nodes.remove(node)
        self.ray.join(1)
        return True

    def go_on(self, kept: Mapping[str, Any]) -> None:
        """Take over the figures of an earlier campaign, and draw other numbers than it."""
        self.counts.update(kept["by_kind"])
        self.by_setting |= {name: Counter(each) for name, each in kept["by_setting"].items()}
        self.orphans.update(kept["cleared_by_gc"])
        self.gave_up += [text for text, count in kept["gave_up"].items() for _ in range(count)]
        self.runs = kept["runs"]
        self.rng = random.Random(f"{SEED} {self.runs}")

    def figures(self) -> dict[str, Any]:
        return {
            "kills": self.counts.total(),
            "runs": self.runs,
            "by_kind": dict(sorted(self.counts.items())),
            "by_setting": {name: dict(sorted(each.items()))
                           for name, each in sorted(self.by_setting.items())},
            "gave_up": dict(Counter(_kind(text) for text in self.gave_up).most_common()),
            "cleared_by_gc": dict(sorted(self.orphans.items())),
        }  # fmt: skip


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    told = [line for line in lines if line.startswith("error:")] or lines[-1:]
    return told[-1] if told else "no word"


def _kind(text: str) -> str:
    """A message without what differs from one run to the next."""
    return " ".join(word for word in text.split() if "/" not in word and not word[:1].isdigit())[
        :90
    ]


def main(kills: int, on: bool) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that servers end, too
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="sluice-kills-"))
        s3 = stack.enter_context(S3())
        proxy = stack.enter_context(Proxy(s3.endpoint))
        undisturbed = str(folder / "undisturbed")
        begin = time.monotonic()
        drive(undisturbed, (*SMALL, "run.executor=inline", "run.workers=1"))
        expected = contents(undisturbed)
        print(
            f"{len(expected)} artifacts undisturbed in {time.monotonic() - begin:.0f} s", flush=True
        )
        stack.enter_context(environment(AWS_ENDPOINT_URL=proxy.endpoint))
        campaign = Campaign(s3, proxy, random.Random(SEED), folder)
        if on:
            campaign.go_on(json.loads((RESULTS / "kill.json").read_text()))
        turn = campaign.runs
        while (left := kills - campaign.counts.total()) > 0:
            setting = SETTINGS[turn % len(SETTINGS)]
            turn += 1
            with ExitStack() as nodes:
                if setting == "cluster":
                    campaign.ray = nodes.enter_context(cluster(1, 1))
                campaign.one(setting, min(left, A_RUN), expected)
                campaign.ray = None
            keep("kill", {"seed": SEED, "artifacts": len(expected)} | campaign.figures(),
                 "torch", "ray", "prefect")  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["drive"]:
        drive(sys.argv[2], sys.argv[3:])
    else:
        numbers = [int(word) for word in sys.argv[1:] if word.isdecimal()]
        main(*numbers or [KILLS], on="--on" in sys.argv)
