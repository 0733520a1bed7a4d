"""Columns made of the curated version, and the runs that read them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from flows.main import Options, Result, execute, prepare
from flows.pipeline import CHOSEN, Pipeline
from flows.plan import plan
from flows.recipe import load_recipe
from infra.dataset import open_dataset
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from tests.curation import captioners
from tests.flows.conftest import SMALL

RUN = "pretrain clip"
BLIP: dict[str, Any] = {"kind": "caption", "model": "blip", "precision": "float32"}
MIX: dict[str, Any] = {
    "pretrain": {"clip": {"train": {"options": {"captions": {"caption": 0.5, "blip": 0.5}}}}}
}
ALONE = {"evaluate": {"compare": []}}  # the run `clip` of the demo, and no other
OTHERS = ("clip-raw", "dino", "mae")


def recipe(folder: Path, *layers: dict[str, Any]) -> str:
    """A recipe file: the demo's, with these mappings over it."""
    merged: dict[str, Any] = {"extends": "curate-and-pretrain"}
    for layer in layers:
        merged |= layer
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(merged))
    return str(file)


def pipeline(folder: Path, *layers: dict[str, Any]) -> Pipeline:
    return Pipeline(load_recipe(recipe(folder, *layers)), str(folder / "store"))


def test_a_run_reads_the_columns_that_a_recipe_makes(tmp_path: Path) -> None:
    plain, mixed = pipeline(tmp_path), pipeline(tmp_path, {"annotate": {"blip": BLIP}}, MIX)
    made, run = mixed.steps["annotate blip"], mixed.steps[RUN]
    assert made.needs == ("curated version",)
    assert {"annotate blip", "curated version"} <= set(run.needs)
    curated = mixed.steps["curated version"].draft
    assert made.draft.url.startswith(f"{curated.url}/scores/blip-")
    folder = made.draft.url.rpartition("/")[2]
    assert run.draft.spec.settings["columns"] == {"blip": folder}
    before = {name: step.drafts for name, step in plain.steps.items()}
    changed = {name for name, step in mixed.steps.items() if step.drafts != before.get(name)}
    assert changed == {"annotate blip", RUN, "evaluation"}
    drawn = {"annotate": {"blip": {**BLIP, "temperature": 1.0, "seed": 2}}, "seed": 5}
    seeded = pipeline(tmp_path, drawn)
    assert seeded.steps["annotate blip"].draft.spec.settings["seed"] == 7


def test_scores_of_the_pool_serve_where_nothing_else_is_made(tmp_path: Path) -> None:
    scores = {"curate": {"scores": {"blip": BLIP}}}
    scored = pipeline(tmp_path, scores, MIX)
    run = scored.steps[RUN]
    assert CHOSEN in run.needs
    assert run.draft.spec.settings["columns"] == {"blip": scored.folders["blip"]}
    both = pipeline(tmp_path, scores, {"annotate": {"blip": BLIP}}, MIX)
    folder = both.steps["annotate blip"].draft.url.rpartition("/")[2]
    assert both.steps[RUN].draft.spec.settings["columns"] == {"blip": folder}
    assert folder != both.folders["blip"]
    train = {**MIX["pretrain"]["clip"]["train"], "columns": {"blip": "blip-0"}}
    own = pipeline(tmp_path, {"pretrain": {"clip": {"train": train}}})
    assert own.steps[RUN].draft.spec.settings["columns"] == {"blip": "blip-0"}


def test_columns_that_nothing_makes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SluiceError, match=r"pretrain\.clip reads the columns 'blip', and nothing"):
        pipeline(tmp_path, MIX)
    with pytest.raises(SluiceError, match=r"are the samples' own"):
        pipeline(tmp_path, {"annotate": {"caption": BLIP}})
    with pytest.raises(SluiceError, match="annotate"):
        pipeline(tmp_path, {"annotate": {"odd": {"kind": "outlier"}}})


@pytest.mark.long
def test_new_captions_are_written_and_learnt_from(tmp_path: Path, curated_store: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(curated_store, store)
    before = open_dataset(str(store), "curated")
    asked = {**BLIP, "model": str(captioners.git(tmp_path)), "max_tokens": 4}
    runs = {"pretrain": {**MIX["pretrain"], **dict.fromkeys(OTHERS)}}
    file = recipe(tmp_path, ALONE, {"annotate": {"blip": asked}}, runs)
    small = [each for each in SMALL if not any(f".{name}." in each for name in OTHERS)]
    options = Options(file, (*small, "run.executor=inline", "run.workers=1"), str(store))
    assert "annotate blip" in plan(options, "pretrain")

    def go() -> Result:
        told = prepare(options), "pretrain", SilentDisplay()
        return execute(*told, lambda step, session: step.run(session))

    ran = [timing.name for timing in go().timings if not timing.from_store]
    assert ran == ["annotate blip", RUN]
    after, written = open_dataset(str(store), "curated"), 0
    assert after.artifact.digest == before.artifact.digest
    for shard in after.shards:
        rows = after.rows(shard)
        [parquet] = store.glob(f"curated/*/scores/blip-*/columns/{shard:05d}.parquet")
        columns = pq.read_table(parquet)
        assert columns.column_names == ["caption", "tokens", "confidence"]
        kept = [status == "ok" for status in rows["status"].to_pylist()]
        assert columns["tokens"].is_valid().to_pylist() == kept
        written += columns["caption"].is_valid().to_pylist().count(True)
        assert rows == before.rows(shard)
    assert written
    [metrics] = store.glob("runs/clip/*/metrics.jsonl")
    line = json.loads(metrics.read_text().splitlines()[-1])
    assert line["read_caption"] + line["read_blip"] == pytest.approx(1)
    assert all(timing.from_store for timing in go().timings)
