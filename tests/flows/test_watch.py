"""A run that is watched: its page in the store, its events, and what a failure leaves."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from flows.cluster import job_name
from flows.main import Options, execute, prepare
from flows.report.run_page import page
from infra.catalogue.notes import JOBS, NAMES, PAGES, notes
from infra.errors import SluiceError
from infra.progress import PlainDisplay
from infra.telemetry.events import Told
from infra.telemetry.state import RunState
from tests.services import ROOT


@pytest.fixture
def options(tmp_path: Path) -> Options:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (64, 48), (40 * number, 9, 9)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"number {number}")
    (folder / "6.png").write_bytes(b"no picture")
    (folder / "6.txt").write_text("number 6")
    described = yaml.safe_load((ROOT / "flows" / "recipes" / "your-shards.yaml").read_text())
    described["data"] = {"pool": [{"folder": str(folder)}], "rows_per_shard": 4}
    described["run"] = {
        "executor": "inline", "price": 36.0, "metrics": "127.0.0.1:0",
        "events": str(tmp_path / "log" / "events.jsonl"),
    }  # fmt: skip
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(described))
    return Options(str(recipe), (), str(tmp_path / "store"))


def run(options: Options, said: list[str]) -> None:
    display = PlainDisplay(said.append)
    execute(prepare(options), "ingest", display, lambda step, session: step.run(session))


def pages(options: Options) -> list[str]:
    return [path.read_text() for path in sorted(Path(options.store or "").glob("status/*/*"))]


def test_a_run_leaves_a_page_and_its_events(options: Options, tmp_path: Path) -> None:
    said: list[str] = []
    run(options, said)
    (text,) = pages(options)
    assert "Done" in text and 'http-equiv="refresh"' not in text
    assert "not_an_image" in text and "ingest pool" in text and "at 36.0 an hour" in text
    assert any(line.startswith("how it stands: ") for line in said)
    assert any(line.startswith("metrics: http://127.0.0.1:") for line in said)
    lines = (tmp_path / "log" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert (events[0]["event"], events[-1]["event"]) == ("run_begin", "run_end")
    assert sum(event["rows"] for event in events if event["event"] == "shard") == 7
    run(options, said)  # all is there: nothing to watch
    assert len(pages(options)) == len(notes(options.store or "", PAGES)) == 1  # as gc knows it


def test_gc_knows_the_orders_of_jobs_by_their_folders(options: Options) -> None:
    prepared = prepare(options)
    names = {job_name(step, prepared.store) for step in prepared.pipeline.steps.values()}
    assert len(names) == len(prepared.pipeline.steps) > 2
    assert all(NAMES[JOBS].fullmatch(name) for name in names)


def test_a_funnel_that_moved_is_an_alert(options: Options, tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "pictures"
    for number in range(10, 200):
        Image.new("RGB", (64, 48), (number, 9, 9)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"number {number}")
    run(options, said)
    for number in range(10, 100):
        (folder / f"{number}.png").write_bytes(b"no picture")
    run(options, said)
    found = [line for line in said if line.startswith("alert: ")]
    assert len(found) == 2 and "goes as not_an_image, 0.5 % in the last version" in found[1]
    assert any("alert: " in text for text in pages(options))


def test_the_page_of_a_run_that_failed_says_why(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise SluiceError("the <network> is gone", "mend it")

    monkeypatch.setattr("curation.ingest.IngestWork.__call__", broken)
    with pytest.raises(SluiceError):
        run(options, [])
    (text,) = pages(options)
    assert "Failed" in text and "the &lt;network&gt; is gone" in text


def test_the_page_of_a_run_that_goes_on_looks_again_and_escapes_names() -> None:
    state = RunState()
    told = Told("r", [state])
    told.tell("run_begin", target="curate", store="s3://b/<i>")
    told.stage("score <b>pool</b>", 10).advance(5, "resumed")
    text = page(state, ["score <b>pool</b>", "verdicts"], frozenset(), None, state.at + 1)
    assert 'http-equiv="refresh"' in text and "<b>pool" not in text and "s3://b/<i>" not in text
    assert "50\u00a0%" in text and "not yet" in text
