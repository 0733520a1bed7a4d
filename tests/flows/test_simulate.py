"""The simulator: what logs tell, how laws are fitted to them, what a cluster makes of these."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flows.simulate.calibration import RunLog, StageLog, read_log
from flows.simulate.cluster import Cluster, Group, load_cluster
from flows.simulate.forecast import Forecast, forecast
from flows.simulate.laws import Line, along, fit, line
from flows.simulate.main import simulated
from infra.artifacts import Part, Spec
from infra.errors import SluiceError
from infra.filesystem import write_bytes
from infra.runner import InlineRunner
from infra.stage import Draft, Item, run_stage
from infra.telemetry.events import JsonLines, Told

ROOT = Path(__file__).parents[2]
MACHINE = Cluster(groups=(Group(name="all", nodes=1, workers=2, memory_gb=16, price=2.0),))


def stage(name: str, rows: int, a: float, b: float, shard: int = 0) -> StageLog:
    """One that takes `a` seconds in all and `b` for each row; shard: rows of one, 0 for whole."""
    if not shard:
        return StageLog(name, a + b * rows, 1, True, 1, rows, 10 * rows, a + b * rows, memory=100)
    work = b * rows
    return StageLog(
        name, a + work / 2, rows // shard, False, rows // shard, rows, 10 * rows, work,
        workers=2, rate=b, warm=True, memory=300,
    )  # fmt: skip


def log(rows: int) -> RunLog:
    stages = [
        stage("ingest pool", rows, 3, 0.001, 50),
        stage("verdicts", rows, 1, 0.0001),
        StageLog("pretrain filter", 20.0, 40),
    ]
    seconds = sum(each.seconds for each in stages) + 5
    return RunLog(f"{rows}.jsonl", rows, seconds, {each.name: each for each in stages})


def test_laws_that_logs_follow_are_found_again() -> None:
    found = forecast(fit([log(1000), log(4000)]), MACHINE, 400_000)
    seconds = {each.name: each.seconds for each in found.stages}
    assert seconds["ingest pool"] == pytest.approx(3 + 400 / 2)
    assert seconds["verdicts"] == pytest.approx(1 + 40)
    assert seconds["pretrain filter"] == pytest.approx(20)  # as many steps, whatever the pool
    assert found.seconds == pytest.approx(5 + sum(seconds.values()))
    assert found.cost == pytest.approx(found.seconds / 3600 * 2)
    assert found.bytes == pytest.approx(2 * 10 * 400_000)
    assert found.stages[0].shards == 8000


def test_more_rows_never_cost_less_and_more_workers_never_take_longer() -> None:
    laws = fit([log(1000), log(4000)])
    before: Forecast | None = None
    for rows in (10**4, 10**6, 10**8, 5.85e9):
        few = forecast(laws, MACHINE, rows)
        (group,) = MACHINE.groups
        many = forecast(laws, Cluster(groups=(group.model_copy(update={"nodes": 50}),)), rows)
        assert many.seconds < few.seconds
        assert before is None or (before.seconds < few.seconds and before.memory <= few.memory)
        before = few


def test_beyond_the_logs_the_benchmarks_say_how_a_stage_grows() -> None:
    curve = [(2e6, 10.0), (4e6, 40.0)]  # of the second power
    assert along(curve, 1e6) == 0.0
    assert along(curve, 3e6) == pytest.approx(22.5)
    assert along(curve, 16e6) == pytest.approx(640)
    laws = fit([log(1000), log(4000)])
    verdicts = next(law for law in laws.stages if law.name == "verdicts")
    assert verdicts.curve and verdicts.memory.slope > 5  # constants.json knows this stage
    slow = replace(verdicts, curve=[(1e6, 1e3), (1e7, 1e4)])
    assert slow.seconds(1e8) == pytest.approx(1e5)
    assert slow.seconds(1e5) == verdicts.work(1e5)


def test_what_does_not_fit_is_told() -> None:
    laws = fit([log(1000), log(4000)])
    found = forecast(laws, MACHINE, 5.85e9, rows_a_shard=1e10)
    told = "\n".join(found.notes)
    assert "verdicts: its one process need" in told
    assert "the calibration had shards of 50 rows" in told
    assert "ingest pool: 1 shards keep only as many of 2 workers busy" in told
    assert "1,462,500 times the largest calibration (4,000 rows)" in told
    assert "one calibration" in "\n".join(forecast(fit([log(1000)]), MACHINE, 1e4).notes)


def test_a_driver_and_a_store_bound_what_workers_could_do() -> None:
    laws = fit([log(1000), log(4000)])
    groups = (Group(name="all", nodes=1000, workers=64, memory_gb=256, lost_per_hour=0.05),)
    driver = forecast(laws, Cluster(groups=groups, driver_ms=20), 1e8).stages[0]
    assert (driver.bound, driver.seconds) == ("driver", pytest.approx(3 + 2e6 * 0.02))
    store = Cluster(groups=groups, driver_ms=0, store_gb_per_second=0.001)
    assert forecast(laws, store, 1e8).stages[0].bound == "store"
    calm = forecast(laws, Cluster(groups=groups, driver_ms=0), 1e8).stages[0]
    spot = groups[0].model_copy(update={"lost_per_hour": 0.9})
    lossy = forecast(laws, Cluster(groups=(spot,), driver_ms=0), 1e8).stages[0]
    assert lossy.seconds > calm.seconds


def test_lines_never_fall_below_nothing() -> None:
    assert line([10, 20], [30, 50]) == Line(10.0, 2.0)
    assert line([10, 20], [5, 1]).slope == 0.0
    assert line([10, 20], [1, 20]).base == 0.0
    assert line([10], [30]) == Line(0.0, 3.0)


def events(path: Path, rows: int, shards: int) -> str:
    """A log that a real stage has written."""

    def work(value: int, todo: list[str]) -> dict[str, Part]:
        file = write_bytes(str(path.parent / "made"), f"{value}.txt", b"x" * 1000)
        return {"": Part(f"{value:05d}", (file,), rows, rows)}

    with path.open("w") as file:
        told = Told("test", [JsonLines(file)])
        told.tell("run_begin", target="ingest", store="here")
        draft = Draft(str(path.parent / path.stem), Spec("dataset", "test", {"rows": rows}))
        items = [Item(f"{value:05d}", value) for value in range(shards)]
        run_stage("ingest pool", {"": draft}, items, work, InlineRunner(), told)
        told.tell("run_end", state="completed", error=None)
    return str(path)


def test_the_log_of_a_run_is_enough(tmp_path: Path) -> None:
    logs = [events(tmp_path / f"{n}.jsonl", 10, n) for n in (2, 8)]
    stages = [read_log(path).stages["ingest pool"] for path in logs]
    assert [(each.rows, each.shards, each.bytes) for each in stages] == [
        (20, 2, 2000), (80, 8, 8000),
    ]  # fmt: skip
    assert all(each.memory > 2**20 and each.workers == 1 and not each.whole for each in stages)
    found, text = simulated(logs, 1000, str(ROOT / "infra/deploy/simulate/cluster.yaml"))
    assert found.stages[0].shards == 100 and found.bytes == pytest.approx(100_000)
    assert "ingest pool" in text and "costs" in text


def test_logs_and_clusters_that_are_none_say_so(tmp_path: Path) -> None:
    good, bad = Path(events(tmp_path / "good.jsonl", 5, 2)), tmp_path / "bad.jsonl"
    lines = good.read_text().splitlines()
    resumed = json.dumps({"event": "resumed", "at": 0, "run": "test", "stage": "x", "count": 1})
    wrong = {
        "no event": "not json",
        "holds no run": "",
        "did not complete": "\n".join(lines[:-1]),
        "went on from another": "\n".join([*lines[:-1], resumed, lines[-1]]),
        "took in no pool": "\n".join([lines[0], lines[-1]]),
    }
    for words, text in wrong.items():
        bad.write_text(text)
        with pytest.raises(SluiceError, match=words):
            read_log(str(bad))
    with pytest.raises(SluiceError, match="cannot read"):
        read_log(str(tmp_path / "none.jsonl"))
    with pytest.raises(SluiceError, match="needs the log"):
        simulated([], 10, None)
    for text, words in {
        "groups: [": "cannot read",
        "groups: []": "groups",
        "a: 1": "groups",
    }.items():
        bad.write_text(text)
        with pytest.raises(SluiceError, match=words):
            load_cluster(str(bad))
