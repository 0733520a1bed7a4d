"""A selection in a recipe: the steps it runs, what it leaves in, and what is told at once."""

import shutil
from pathlib import Path

import pytest

from flows.main import Options, explain, prepare, report
from infra import artifacts
from infra.dataset import open_dataset
from infra.errors import SluiceError
from tests.flows.conftest import SMALL, run_small

HALF = "curate.selection={plan: [{kind: top, name: half, fraction: 0.5}]}"


def test_a_selection_runs_after_the_verdicts(tmp_path: Path, curated_store: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(curated_store, store)
    before = open_dataset(str(store), "curated").artifact
    result = run_small(store, "curate", overrides=[HALF])
    ran = [timing.name for timing in result.timings if not timing.from_store]
    assert ran == ["selection", "curated version"]
    curated = open_dataset(str(store), "curated")
    kept = curated.artifact.totals["kept"]
    assert kept == int(before.totals["kept"] / 2 + 0.5)
    assert curated.artifact.totals["dropped"]["half"] == before.totals["kept"] - kept
    (manifest,) = store.rglob("selection/*/manifest.json")
    selection = artifacts.load(str(manifest.parent))
    assert selection is not None and selection.totals["rows"] == before.totals["kept"]
    rows = next(curated.rows(shard) for shard in curated.shards).to_pylist()
    out = next(row for row in rows if row["reason"] == "half")
    assert "not selected, with probability 0.5" in explain(
        Options(None, (), str(store)), out["uid"]
    )
    page = report(Options(None, (*SMALL, HALF, "run.executor=inline"), str(store)))
    text = Path(page).read_text()
    assert "that the selector top picks" in text and "What the plan took of what stayed" in text


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        ("{kind: quotas, by: rows.captoin, most: 1}", "rows.caption"),
        ("{kind: quotas, by: domain}", "give `most`, `share` or both"),
        ("{kind: top, name: blank, fraction: 0.5}", "a rule and a selector are called 'blank'"),
        ("{kind: top, fraction: 1.5}", "fraction"),
        ("{kind: concepts, entries: /nowhere.txt, t: 0}", "greater than 0"),
        ("{kind: concepts, entries: /nowhere.txt, t: 1}", "/nowhere.txt"),
        ("{kind: magic}", "concepts"),
    ],
)
def test_a_wrong_selection_is_told_at_once(tmp_path: Path, selector: str, words: str) -> None:
    change = f"curate.selection={{plan: [{selector}]}}"
    with pytest.raises(SluiceError, match=words):
        prepare(Options(None, (change,), str(tmp_path)))
