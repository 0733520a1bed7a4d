"""The main job as a whole: conservation, equal bytes everywhere, resume, nothing done twice."""

import json
import operator
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from PIL import Image

import indexes
from curation.rules_settings import DUPLICATES
from flows.main import Options, execute, explain, index_dataset, prepare, report, stored_artifacts
from flows.pipeline import CHOSEN
from flows.plan import RATES, lines, plan
from infra import artifacts
from infra.dataset import Dataset, open_dataset
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from tests.curation.sources.made import samples, tar_bytes
from tests.flows.conftest import SMALL, run_small


def content(store: Path) -> tuple[str, str]:
    """Version and content of the curated version."""
    artifact = open_dataset(str(store), "curated").artifact
    return artifact.digest, artifact.content


def leftovers(store: Path) -> list[str]:
    """What only an unfinished artifact has."""
    return [str(path) for path in store.rglob("_*") if path.name in ("_tmp", "_parts", "_work")]


def test_every_row_ends_in_one_state_with_a_reason(curated_store: Path) -> None:
    pool, curated = (open_dataset(str(curated_store), name) for name in ("pool", "curated"))
    for part in curated.artifact.parts:
        shard = int(part.name)
        before, after = pool.rows(shard), curated.rows(shard)
        assert before["uid"] == after["uid"]
        assert part.rows == before.num_rows == part.kept + sum(part.dropped.values())
        states = Counter(after["status"].to_pylist())
        assert states["ok"] == part.kept == len(list(curated.samples(shard)))
        for row in after.to_pylist():
            assert (row["status"] == "ok") == (row["reason"] is None)
    assert leftovers(curated_store) == []


def test_planted_defects_are_found_and_unknown_to_every_stage(curated_store: Path) -> None:
    (key,) = curated_store.glob("corpus/*/canaries.parquet")
    planted = pq.read_table(key)
    curated = open_dataset(str(curated_store), "curated")
    rows = pa.concat_tables([curated.rows(shard) for shard in curated.shards]).to_pylist()
    reasons = {row["uid"]: row["reason"] for row in rows}
    for entry in planted.to_pylist():
        if entry["defect"] in ("corrupt", "too_small", "extreme_aspect", "blank"):
            assert reasons[entry["uid"]], entry
    for manifest in curated_store.rglob("manifest.json"):
        if "corpus" not in manifest.parts:
            assert "canaries" not in manifest.read_text()


def test_a_second_run_makes_nothing(curated_store: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in curated_store.rglob("*.*")}
    result = run_small(curated_store, "curate")
    assert all(timing.from_store for timing in result.timings)
    assert before == {path: path.stat().st_mtime_ns for path in curated_store.rglob("*.*")}


def test_a_changed_threshold_runs_from_the_verdicts_on(tmp_path: Path, curated_store: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(curated_store, store)
    result = run_small(store, "curate", overrides=["curate.rules.too_small.min=70"])
    ran = [timing.name for timing in result.timings if not timing.from_store]
    assert ran == ["verdicts", "curated version"]
    assert content(store) != content(curated_store)


@pytest.mark.slow
def test_a_recipe_adds_scores_and_rules_use_them(tmp_path: Path, curated_store: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(curated_store, store)
    before = open_dataset(str(store), "curated").artifact.totals["kept"]
    [vectors] = [path.parent for path in store.glob("pool/*/scores/clip-*/image/00000.npy")]
    dim = np.load(vectors / "00000.npy").shape[1]
    weights = {"weight": np.eye(1, dim, dtype=np.float32), "bias": np.zeros(1, np.float32)}
    safetensors.numpy.save_file(weights, tmp_path / "first.safetensors")
    [run] = store.glob("runs/filter/*")
    told = f"embedding: runs/filter/{run.name}, units: first number, polarity: higher is better"
    chosen = f"curate.scores.first={{kind: head, file: {tmp_path}/first.safetensors, {told}}}"
    rule = ("curate.rules.too_small.score=first.score", "curate.rules.too_small.min=0")
    result = run_small(store, "curate", overrides=[chosen, *rule])
    ran = [timing.name for timing in result.timings if not timing.from_store]
    assert ran == [CHOSEN, "verdicts", "curated version"]
    pool = open_dataset(str(store), "pool")
    [columns] = store.glob("pool/*/scores/first-*/columns/00000.parquet")
    found = pq.read_table(columns)["score"].to_pylist()
    stored = np.load(vectors / "00000.npy")
    assert len(found) == pool.rows(0).num_rows
    assert [None if not row.any() else float(row[0]) for row in stored] == found
    assert open_dataset(str(store), "curated").artifact.totals["kept"] < before
    for taken in ("clip", "contamination", "frequency", "cells"):
        with pytest.raises(SluiceError, match=rf"curate\.scores\.{taken} has the name"):
            run_small(
                store, "curate", overrides=[chosen.replace("scores.first", f"scores.{taken}")]
            )
    with pytest.raises(SluiceError, match=r"a head for vectors of runs/other, clip/image is of"):
        run_small(store, "curate", overrides=[chosen.replace(f"filter/{run.name}", "other")])


@pytest.mark.slow
def test_scores_over_embeddings_read_the_trusted_split(tmp_path: Path, curated_store: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(curated_store, store)
    kinds = {"types": "concepts", "odd": "outlier", "fooling": "fooling", "named": "labels"}
    kinds |= {"made": "generated"}
    chosen = [f"curate.scores.{name}={{kind: {kind}}}" for name, kind in kinds.items()]
    rule = ["curate.rules.too_small.score=odd.percentile", "curate.rules.too_small.max=99"]
    result = run_small(store, "curate", overrides=[*chosen, *rule])
    ran = [timing.name for timing in result.timings if not timing.from_store]
    assert ran == ["embed trusted", CHOSEN, "verdicts", "curated version"]
    pool = open_dataset(str(store), "pool")
    decoded = [
        table["similarity"].is_valid().to_pylist()
        for path in sorted(store.glob("pool/*/scores/clip-*/columns/*.parquet"))
        for table in [pq.read_table(path)]
    ]
    for name in kinds:
        files = sorted(store.glob(f"pool/*/scores/{name}-*/columns/*.parquet"))
        tables = [pq.read_table(path) for path in files]
        assert len(tables) == len(list(pool.shards))
        for table, present in zip(tables, decoded, strict=True):
            for column in table.columns:
                found = column.is_valid().to_pylist()
                if name == "made":  # small and flat images have none
                    assert any(found) and all(map(operator.le, found, present))
                else:
                    assert found == present


@pytest.mark.slow
def test_two_processes_give_the_same_bytes(tmp_path: Path, curated_store: Path) -> None:
    run_small(tmp_path / "store", "curate", "local", 2)
    assert content(tmp_path / "store") == content(curated_store)


@pytest.mark.ray
def test_ray_gives_the_same_bytes(tmp_path: Path, curated_store: Path) -> None:
    run_small(tmp_path / "store", "curate", "ray", 2)
    assert content(tmp_path / "store") == content(curated_store)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("executor", "kills", "longest"),
    [
        ("local", 4, 12),
        pytest.param("local", 10, 12, marks=pytest.mark.long),
        pytest.param("ray", 4, 25, marks=[pytest.mark.ray, pytest.mark.long]),
    ],
)
def test_killed_anywhere_the_bytes_are_the_same(
    tmp_path: Path, curated_store: Path, executor: str, kills: int, longest: float
) -> None:
    """SIGKILL to the whole process group at random moments, then a run that ends."""
    store, moments = tmp_path / "store", random.Random(7)
    script = (
        "import sys; from pathlib import Path; from tests.flows.conftest import run_small\n"
        f"if __name__ == '__main__': run_small(Path(sys.argv[1]), 'curate', '{executor}', 2)"
    )
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(store)], start_new_session=True
        )
        try:
            process.wait(timeout=moments.uniform(1, longest))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        else:
            assert process.returncode == 0
    time.sleep(0.2)
    run_small(store, "curate")
    assert content(store) == content(curated_store)
    assert leftovers(store) == []
    damaged = [artifacts.verify(found) for found in map(artifacts.load, versions(store)) if found]
    assert damaged and not any(damaged)


def versions(store: Path) -> list[str]:
    return [str(path.parent) for path in store.rglob("manifest.json")]


@pytest.mark.slow
def test_the_whole_job_leaves_a_report(tmp_path: Path, curated_store: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(curated_store, store)
    result = run_small(store, "curate-and-pretrain")
    assert result.report
    page = Path(result.report).read_text()
    for word in ("mismatched_caption", "near_duplicate", "clip-raw", "evaluation_leak"):
        assert word in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    catalogue = Path(result.report).with_name("fractals.html").read_text()
    assert 'href="fractals.html"' in page and catalogue.count('id="system-') == 4
    again = report(Options(None, (*SMALL, "run.executor=inline"), str(store)))
    assert again == result.report


def test_a_plan_tells_and_writes_nothing(tmp_path: Path, curated_store: Path) -> None:
    fresh = plan(Options(None, SMALL, str(tmp_path / "fresh")), "curate")
    assert "demo corpus" in fresh and "one shard, measured now" in fresh
    assert "not reckoned: filter network\n" in fresh  # its batch is not that of the benchmark
    assert not (tmp_path / "fresh").exists()
    before = sorted(curated_store.rglob("*"))
    known = plan(Options(None, SMALL, str(curated_store)), "curate-and-pretrain")
    assert before == sorted(curated_store.rglob("*"))
    line = next(line for line in known.splitlines() if line.startswith("curated version"))
    assert "in the store" in line


def test_a_plan_tells_what_the_rules_would_remove(curated_store: Path, tmp_path: Path) -> None:
    """Without --set these are the counts of the verdicts, for the first reasons and what stays."""
    text = plan(Options(None, SMALL, str(curated_store)), "curate")
    table = text[text.index("the rules, over") :]
    assert max(map(len, table.splitlines())) <= 100
    prepared = prepare(Options(None, SMALL, str(curated_store)))
    (verdicts,) = stored_artifacts(prepared.pipeline.steps["verdicts"]).values()
    for place, rule in enumerate(prepared.recipe.curate.rules):
        line = next(x for x in table.splitlines() if x.startswith(f"{place + 1:2d}  {rule.reason}"))
        assert int(line.split()[-2]) == verdicts.totals["dropped"].get(rule.reason, 0)
    again = sum(verdicts.totals["dropped"].get(reason, 0) for reason in DUPLICATES)
    assert int(line.split()[-1]) == verdicts.totals["kept"] + again
    assert "removed by both" in table
    odd = (*SMALL, "curate.rules.too_small.min=9999")
    assert "too_small removes all" in plan(Options(None, odd, str(curated_store)), "curate")
    other = (*SMALL, "filter.references=16")
    assert "not in the store yet: mismatched_caption (clip)" in " ".join(
        plan(Options(None, other, str(curated_store)), "curate").split()
    )
    fresh = plan(Options(None, SMALL, str(tmp_path / "fresh")), "curate")
    assert "nothing is ingested yet" in fresh


def test_a_rule_may_ask_how_often_a_caption_comes(tmp_path: Path, curated_store: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(curated_store, store)
    rules = "curate.rules=[{reason: common, score: frequency.captions, max: 1}]"
    rungs = [f"curate.dedup.{rung}=false" for rung in ("exact", "pixels", "perceptual")]
    changes = ("curate.dedup.near=[]", *rungs, rules)
    result = run_small(store, "curate", overrides=changes)
    (curated,) = result.made["curated version"].values()
    rows = pa.concat_tables([Dataset(curated).rows(shard) for shard in Dataset(curated).shards])
    often = Counter((c or "").casefold() for c in rows["caption"].to_pylist())
    for row in rows.to_pylist():
        if row["status"] == "ok":
            assert often[row["caption"].casefold()] == 1
    assert curated.totals["kept"] > 0 and curated.totals["dropped"]["common"] > 0


def test_any_version_is_indexed_by_name(tmp_path: Path, curated_store: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(curated_store, store)
    options = Options(None, (*SMALL, "run.executor=inline"), str(store))
    for name in ("curated", "pool"):
        result = index_dataset(
            options, name, SilentDisplay(), lambda step, session: step.run(session)
        )
        assert [timing.name for timing in result.timings] == [
            "index quantizer", "index codes", "index",
        ]  # fmt: skip
        idx = indexes.open(f"{store}/{name}")
        assert len(idx) == result.made["index"][""].totals["kept"] > 0
    digest = indexes.open(f"{store}/curated").artifact.digest
    assert run_small(store, "index").made["index"][""].digest == digest  # the recipe's own
    with pytest.raises(SluiceError, match="nothing"):
        index_dataset(options, "nothing", SilentDisplay(), lambda step, session: step.run(session))


def test_explain_names_the_reason(curated_store: Path) -> None:
    curated = open_dataset(str(curated_store), "curated")
    rows = pa.concat_tables([curated.rows(shard) for shard in curated.shards]).to_pylist()
    dropped = next(row for row in rows if row["reason"] == "too_small")
    text = explain(Options(None, (), str(curated_store)), dropped["uid"])
    assert "too_small" in text and dropped["uid"] in text
    with pytest.raises(SluiceError):
        explain(Options(None, (), str(curated_store)), "0" * 32)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("curate.rules.blank.score=image.unformity", "image.uniformity"),
        ("curate.dedup.nea=0.9", "near"),
        ("curate.dedup.near.0.threshold=high", "curate.dedup.near.0.threshold"),
        ("pretrain.clip.sources={curted: 1}", "curted"),
        ("pretrain.mae.train.image_size=60", "patch"),
        ("curate.rules.nothing.min=1", "nothing"),
        ("data.pool=[{tars: x.tar}]", "demo"),
    ],
)
def test_a_wrong_recipe_is_told_at_once(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(SluiceError, match=words):
        prepare(Options(None, (override,), str(tmp_path)))


def test_a_store_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SluiceError, match="cannot write"):
        run_small(tmp_path / "file" / "store", "ingest")


def test_missing_and_empty_sources_are_told(tmp_path: Path) -> None:
    recipe = ("data.demo=null", "filter.model=ViT-B-32", "filter.train=null", "pretrain={}")
    for source in (f"{tmp_path}/none/*.tar", str(tmp_path)):
        with pytest.raises(SluiceError, match="no file at"):
            prepare(Options(None, (*recipe, f"data.pool=[{{tars: '{source}'}}]"), str(tmp_path)))


def test_sources_without_a_single_sample_are_told(tmp_path: Path) -> None:
    (tmp_path / "00000.tar").write_bytes(bytes(10240))
    changes = (f"data.pool.0.tars={tmp_path}/*.tar", "run.executor=inline")
    prepared = prepare(Options("your-shards", changes, str(tmp_path / "store")))
    with pytest.raises(SluiceError, match=r"no sample in .*tar: 1 empty_tar"):
        execute(prepared, "ingest", SilentDisplay(), lambda step, session: step.run(session))
    assert not list((tmp_path / "store").rglob("manifest.json"))


def test_a_plan_says_nothing_of_a_network_that_never_ran(tmp_path: Path) -> None:
    (tmp_path / "00000.tar").write_bytes(tar_bytes(samples(3)))
    changes = (f"data.pool.0.tars={tmp_path}/*.tar", "run.executor=inline")
    text = plan(Options("your-shards", changes, str(tmp_path / "store")), "curate")
    assert "not reckoned: embed pool" in text
    assert not (tmp_path / "store").exists()


def test_a_plan_reckons_larger_pictures_dearer(tmp_path: Path) -> None:
    """What looks at pixels is reckoned by their number, and nothing else of a row's cost is."""
    seconds = {}
    for side in (40, 400):
        folder = tmp_path / str(side)
        folder.mkdir()
        Image.new("RGB", (side, side)).save(folder / "picture.png")
        changes = (f"data.pool=[{{folder: {folder}}}]", "run.executor=inline", "run.workers=1")
        prepared = prepare(Options("your-shards", changes, str(tmp_path / "store")))
        (line,) = lines(prepared, [prepared.pipeline.steps["score pool"]])
        assert line.rows == 1 and line.seconds is not None
        seconds[side] = line.seconds
    rates = json.loads(RATES.read_text()).values()
    # No step of the demo takes so long for a row: such a rate is of a whole artifact.
    assert max(rate["seconds"] for rate in rates) < 0.05
    growing = [(rate["seconds"], rate["pixels"]) for rate in rates if "pixels" in rate]
    more = sum(each * (400**2 - 40**2) / pixels for each, pixels in growing)
    assert seconds[400] - seconds[40] == pytest.approx(more)
