"""Encoders that learn from versions of the store: by name, by digest, in plans and reports."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from flows.main import Options, execute, prepare
from flows.pipeline import Pipeline
from flows.plan import plan
from flows.recipe import load_recipe
from flows.report.provenance import provenance
from flows.reporting import report_context
from indexes.subset import make_subset
from infra import artifacts
from infra.artifacts import Artifact, Part, Spec
from infra.dataset import index_id, open_dataset, publish
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from tests.flows.conftest import SMALL, run_small


def version(store: str, name: str, number: int, kind: str = "dataset") -> Artifact:
    """A version that holds no files, published."""
    spec = Spec(kind, "test", {"number": number})
    url = f"{store}/{name}/{spec.digest}"
    artifacts.record_part(url, Part("00000", (), 3, 3), 0.0, 0.0)
    made = artifacts.commit(url, spec)
    publish(store, name, made)
    return made


def sources(mix: str) -> tuple[str, ...]:
    return (*SMALL, f"pretrain.clip.sources={{{mix}}}")


def run_digest(store: str, mix: str) -> str:
    pipeline = Pipeline(load_recipe(None, sources(mix)), store)
    step = pipeline.steps["pretrain clip"]
    assert step.needs == (("curated version",) if "curated" in mix else ())
    return step.draft.spec.digest


def test_a_run_is_known_by_the_version_a_name_stands_for(tmp_path: Path) -> None:
    store = str(tmp_path)
    first = version(store, "sevens", 1)
    pinned = run_digest(store, f"curated: 1, sevens@{first.digest}: 0.5")
    assert run_digest(store, "curated: 1, sevens@latest: 0.5") == pinned
    assert run_digest(store, "curated: 1, sevens@latest: 0.4") != pinned
    second = version(store, "sevens", 2)
    assert run_digest(store, f"curated: 1, sevens@{first.digest}: 0.5") == pinned
    moved = run_digest(store, "curated: 1, sevens@latest: 0.5")
    assert moved == run_digest(store, f"curated: 1, sevens@{second.digest}: 0.5") != pinned
    alone = Pipeline(load_recipe(None, sources("sevens@latest: 1")), store)
    assert alone.steps["pretrain clip"].draft.spec.parents == (second.digest,)


@pytest.mark.parametrize("name", ["sevens", "sevens@", "sevens@old", "../sevens@latest", "@latest"])
def test_a_name_that_is_no_version_says_how_one_is_named(name: str) -> None:
    with pytest.raises(SluiceError) as told:
        load_recipe(None, sources(f"'{name}': 1"))
    assert f"pretrain.clip.sources names {name!r}, " in told.value.what
    assert "there is curated, fractals, pool, trusted" in told.value.what
    assert "any version of the store can be named as NAME@VERSION or NAME@latest" in told.value.what


def test_a_version_that_is_not_there_is_told_before_anything_runs(tmp_path: Path) -> None:
    store = tmp_path / "store"
    for name in ("sevens@latest", "sevens@0123456789abcdef"):
        with pytest.raises(SluiceError) as told:
            plan(Options(None, sources(f"{name}: 1"), str(store)), "pretrain")
        assert told.value.what.startswith(f"pretrain.clip.sources names {name}: ")
        assert "hits.save_as('sevens')" in told.value.way_out
        with pytest.raises(SluiceError, match=name):
            run_small(store, "pretrain", overrides=[f"pretrain.clip.sources={{{name}: 1}}"])
    assert not store.exists()
    there = version(str(store), "sevens", 1)
    with pytest.raises(SluiceError) as told:
        run_digest(str(store), "sevens@0123456789abcdef: 1")
    assert f"name one that is there (sevens@{there.digest})" in told.value.way_out


def test_what_is_no_dataset_or_is_named_twice_is_refused(tmp_path: Path) -> None:
    store = str(tmp_path)
    other = version(store, "odd", 1, "evaluation")
    with pytest.raises(SluiceError, match="no dataset version but of the kind 'evaluation'"):
        run_digest(store, f"odd@{other.digest}: 1")
    made = version(store, "sevens", 1)
    with pytest.raises(SluiceError, match=f"twice, as sevens@latest and as sevens@{made.digest}"):
        run_digest(store, f"sevens@latest: 1, sevens@{made.digest}: 1")


def save(store: str, count: int) -> Artifact:
    """The first rows that stay of the first shard, as a notebook saves them."""
    curated = open_dataset(store, "curated")
    status = curated.rows(0, ["status"])["status"].to_pylist()
    rows = [row for row, state in enumerate(status) if state == "ok"][:count]
    ids = np.array([index_id(0, row) for row in rows], np.int64)
    return make_subset(curated, ids, "sevens", "a test").artifact


def test_an_encoder_learns_from_a_subset(tmp_path: Path, curated_store: Path) -> None:
    store, mine = str(tmp_path / "store"), tmp_path / "mine.yaml"
    shutil.copytree(curated_store, store)
    subset = save(store, 9)
    mine.write_text(
        "extends: curate-and-pretrain\n"
        "pretrain:\n"
        "  clip: {sources: !replace {sevens@latest: 1}}\n"
        "  clip-raw: null\n"
        "  dino: null\n"
        "  mae: null\n"
        "evaluate: {compare: []}\n"
    )
    others = ("pretrain.clip-raw", "pretrain.dino", "pretrain.mae")
    changes = (*(each for each in SMALL if not each.startswith(others)), "run.executor=inline")
    options = Options(str(mine), changes, store)
    assert f"sevens@latest in pretrain: sevens@{subset.digest}, 9 samples" in plan(
        options, "pretrain"
    )
    prepared = prepare(options)
    result = execute(prepared, "pretrain", SilentDisplay(), lambda step, session: step.run(session))
    assert list(result.made) == ["pretrain clip"]  # nothing is curated for it
    run = result.made["pretrain clip"][""]
    assert run.manifest["spec"]["parents"] == [subset.digest]
    assert run.settings["mix"] == [[subset.digest, 1.0]]
    told = {one.name: one for one in provenance(store, report_context(prepared.pipeline, []))}
    assert told["source: sevens@latest"].digest == subset.digest
    assert told["run: clip"].parents == [(subset.digest, "source: sevens@latest")]
    (line,) = (each for each in plan(options, "pretrain").splitlines() if "pretrain clip" in each)
    assert "in the store" in line
    save(store, 8)
    (line,) = (each for each in plan(options, "pretrain").splitlines() if "pretrain clip" in each)
    assert "to do" in line
