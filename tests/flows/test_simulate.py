"""The simulator: what logs tell, how laws are fitted to them, what a cluster makes of these."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.simulate.calibration import RunLog, StageLog, read_log
from flows.simulate.cluster import Cluster, Group, load_cluster
from flows.simulate.forecast import Forecast, forecast
from flows.simulate.laws import along, fit
from flows.simulate.main import simulated
from flows.simulate.planes import Plane
from flows.simulate.planes import fit as fit_planes
from flows.simulate.text import forecast_text
from infra.artifacts import Part, Spec
from infra.errors import SluiceError
from infra.filesystem import write_bytes
from infra.runner import InlineRunner
from infra.stage import Draft, Item, run_stage
from infra.telemetry.events import JsonLines, Told

ROOT = Path(__file__).parents[2]
MACHINE = Cluster(groups=(Group(name="all", nodes=1, workers=2, memory_gb=16, price=2.0),))


def whole(name: str, seconds: float, rows: int, size: int) -> StageLog:
    return StageLog(name, seconds, 1, True, 1, rows, size, seconds, memory=100)


def wide(name: str, fixed: float, rows: int, a_shard: int, row: float, shard: float) -> StageLog:
    """One of two workers. row, shard: seconds of a worker for each."""
    shards, each = rows // a_shard, shard + row * a_shard
    return StageLog(
        name, fixed + shards * each / 2, shards, False, shards, rows, 10 * rows + 100 * shards,
        shards * each, workers=2, later=[(a_shard, each)] * shards, warm=True, memory=300,
    )  # fmt: skip


def log(rows: int, a_shard: int = 50) -> RunLog:
    shards = rows // a_shard
    stages = [
        wide("ingest pool", 3, rows, a_shard, 0.001, 0.2),
        whole("verdicts", 1 + 0.0005 * rows + 0.1 * shards, rows, 1000 + 4 * rows + 50 * shards),
        StageLog("pretrain filter", 20.0, 40),
        wide("ingest trusted", 0, 200, 100, 0.001, 0.2),
    ]
    seconds = sum(each.seconds for each in stages) + 5
    return RunLog(f"{rows}.jsonl", rows, seconds, {each.name: each for each in stages})


THREE = (log(1000, 100), log(4000, 400), log(4000, 100))  # tell rows, shards and start


def test_laws_that_logs_follow_are_found_again() -> None:
    found = forecast(fit(THREE), MACHINE, 4_000_000, rows_a_shard=8000)
    stages = {each.name: each for each in found.stages}
    assert stages["ingest pool"].seconds == pytest.approx(3 + (4000 + 500 * 0.2) / 2)
    assert stages["verdicts"].seconds == pytest.approx(1 + 2000 + 50)
    assert stages["pretrain filter"].seconds == pytest.approx(20)  # as many steps, whatever pool
    assert stages["ingest trusted"].shards == 2  # as many, whatever the pool
    assert found.seconds == pytest.approx(5 + sum(each.seconds for each in found.stages))
    assert found.cost == pytest.approx(found.seconds / 3600 * 2)
    assert stages["ingest pool"].bytes == pytest.approx(10 * 4_000_000 + 100 * 500)
    assert stages["verdicts"].bytes == pytest.approx(1000 + 4 * 4_000_000 + 50 * 500)
    assert stages["ingest pool"].shards == found.shards == 500
    assert stages["verdicts"].taken_for == "rows"
    small = {each.name: each for each in forecast(fit(THREE), MACHINE, 4_000_000, 40).stages}
    assert small["verdicts"].taken_for == "shards"
    assert forecast(fit(THREE), MACHINE, 4_000_000).shards == 10_000  # as of the largest log


def test_what_logs_leave_open_is_told_and_never_foretold_too_low() -> None:
    truth = forecast(fit(THREE), MACHINE, 4e6, rows_a_shard=8000)
    finer = forecast(fit(THREE), MACHINE, 4e6, rows_a_shard=10)
    for logs in ([log(4000, 100)], [log(1000, 100), log(4000, 100)], THREE[:2], THREE[1:]):
        notes: list[str] = []
        for told, right in ((8000, truth), (10, finer)):
            found = forecast(fit(logs), MACHINE, 4e6, rows_a_shard=told)
            for stage, exact in zip(found.stages, right.stages, strict=True):
                assert stage.most * 1.001 > exact.seconds
                assert stage.seconds * 1.001 > exact.seconds
            notes += found.notes
        assert "do not tell well" in "\n".join(notes)
    assert "do not tell well" not in "\n".join(truth.notes)


def test_more_rows_never_cost_less_and_more_workers_never_take_longer() -> None:
    laws = fit(THREE)
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
    laws = fit(THREE)
    verdicts = next(law for law in laws.stages if law.name == "verdicts")
    assert verdicts.curve and verdicts.memory.row > 5  # constants.json knows this stage
    slow = replace(verdicts, curve=[(1e6, 1e3), (1e7, 1e4)])
    (work,) = slow.work.best
    assert sum(slow.parts(1e8, 10, work).values()) == pytest.approx(1e5 + 1)
    assert sum(slow.parts(1e5, 10, work).values()) == pytest.approx(work(1e5, 10))


def test_what_does_not_fit_is_told() -> None:
    laws = fit(THREE)
    found = forecast(laws, MACHINE, 5.85e9, rows_a_shard=1e10)
    told = "\n".join(found.notes)
    assert "verdicts: its one process need" in told
    assert "of the calibration 400: what a worker holds" in told
    assert "ingest pool: shards for 1 of 2 workers only" in told
    assert "benchmarks of how they grow are verdicts (4,000,000 rows)" in told
    assert "1,462,500 times the largest calibration (4,000 rows)" in told


def test_an_autoscaler_pays_for_nodes_that_work() -> None:
    (group,) = MACHINE.groups
    many = (group.model_copy(update={"nodes": 50}),)
    always = forecast(fit(THREE), Cluster(groups=many), 4e6, 8000)
    scaled = forecast(fit(THREE), Cluster(groups=many, autoscaling=True), 4e6, 8000)
    nodes = {"ingest pool": 50, "verdicts": 1, "pretrain filter": 50, "ingest trusted": 1}
    paid = sum(nodes[each.name] * each.seconds for each in scaled.stages) + scaled.other
    assert scaled.seconds == always.seconds
    assert scaled.cost == pytest.approx(2 * paid / 3600)
    assert always.cost == pytest.approx(2 * 50 * always.seconds / 3600)


def test_the_text_begins_with_what_bounds_the_run() -> None:
    text = forecast_text(forecast(fit(THREE), MACHINE, 4e6, 8000), priced=True)
    bounds = [line.split(":")[0].split() for line in text.split("\n\n")[1].splitlines()]
    assert [line[-1] for line in bounds] == ["workers", "(rows)", "process", "(rows)"]
    assert [line[0] for line in bounds] == ["50", "ingest", "50", "verdicts"]
    vague = forecast_text(forecast(fit(THREE[:1]), MACHINE, 4e6, 8000), priced=True)
    assert "(unsure, see below)" in vague and "(unsure" not in text


def test_a_driver_and_a_store_bound_what_workers_could_do() -> None:
    laws = fit(THREE)
    groups = (Group(name="all", nodes=1000, workers=64, memory_gb=256, lost_per_hour=0.05),)
    driver = forecast(laws, Cluster(groups=groups, driver_ms=20), 1e8, 50).stages[0]
    assert (driver.bound, driver.seconds) == ("driver", pytest.approx(3 + 2e6 * 0.02))
    store = Cluster(groups=groups, driver_ms=0, store_gb_per_second=0.001)
    assert forecast(laws, store, 1e8).stages[0].bound == "store"
    calm = forecast(laws, Cluster(groups=groups, driver_ms=0), 1e8).stages[0]
    spot = groups[0].model_copy(update={"lost_per_hour": 0.9})
    lossy = forecast(laws, Cluster(groups=(spot,), driver_ms=0), 1e8).stages[0]
    assert lossy.seconds > calm.seconds


def test_no_fit_is_below_nothing_and_none_is_better() -> None:
    rng = np.random.default_rng(7)
    for _ in range(50):
        rows, shards = rng.integers(100, 9999, 5), rng.integers(1, 99, 5)
        seen = rng.normal(1, 1, 5) + rows * rng.normal(0, 1e-3) + shards * rng.normal(0, 0.1)
        seen = seen.clip(0)
        found = fit_planes(list(zip(rows, shards, seen, strict=True))).best[0]
        assert min(found.base, found.row, found.shard) >= 0
        missed = np.linalg.norm([found(a, b) for a, b in zip(rows, shards, strict=True)] - seen)
        for other in rng.uniform(0, 2, (200, 3)) * [1, 1e-3, 0.1]:
            plane = Plane(*other)
            worse = [plane(a, b) for a, b in zip(rows, shards, strict=True)] - seen
            assert missed <= np.linalg.norm(worse) + 1e-9
    assert {*fit_planes([]).best} == {*fit_planes([(10, 1, 0.0)]).best} == {Plane()}
    assert fit_planes([(10, 0.5, 30.0)], base=False)(100, 2) == pytest.approx(300)


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
    found, text = simulated(logs, 1000, str(ROOT / "infra/deploy/simulate/cluster.yaml"), 10)
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
