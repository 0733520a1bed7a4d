"""Recipes: every one that is shipped is valid; overrides, inheritance, and what is told."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.rules_settings import DedupSettings
from curation.scores.settings import LabelsSettings
from flows.main import Options
from flows.pipeline import Pipeline
from flows.plan import plan
from flows.recipe import RECIPES, load_recipe
from flows.settings import merge, override
from infra.errors import SluiceError
from tests.curation.sources.made import samples, tar_bytes

LEAVES = st.one_of(st.integers(), st.text(max_size=3), st.booleans())
TREES = st.recursive(
    LEAVES, lambda inner: st.dictionaries(st.text("ab", min_size=1, max_size=2), inner, max_size=3)
)
MAPPINGS = st.dictionaries(st.text("ab", min_size=1, max_size=2), TREES, max_size=3)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    assert load_recipe(path.stem).name == path.stem


def test_a_recipe_lies_over_the_one_it_extends(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: curate-and-pretrain\nname: mine\npretrain: {dino: null}\n")
    base, recipe = load_recipe(), load_recipe(str(mine))
    assert set(base.pretrain) - set(recipe.pretrain) == {"dino"}
    assert recipe.curate == base.curate
    mine.write_text("extends: mine.yaml\nname: mine\n")
    with pytest.raises(SluiceError, match="extends itself"):
        load_recipe(str(mine))


def test_what_a_recipe_can_do_to_the_one_it_extends(tmp_path: Path) -> None:
    base, mine = tmp_path / "base.yaml", tmp_path / "mine.yaml"
    base.write_text(
        "extends: curate-and-pretrain\n"
        "curate:\n"
        "  scores: {odd: {kind: outlier, limit: 99}, types: {kind: concepts}}\n"
        "  dedup: {radius: 5, near: [{threshold: 0.9}, {vectors: clip/image}]}\n"
    )
    mine.write_text(
        "extends: base.yaml\n"
        "synthesize: null\n"  # falls back to its default: nothing
        "pretrain: {dino: null, mae: null}\n"
        "curate:\n"
        "  scores: {odd: !replace {kind: labels}, types: null}\n"
        "  dedup: {radius: null, near: [{threshold: 0.93}]}\n"  # a list replaces
    )
    below, recipe = load_recipe(str(base)), load_recipe(str(mine))
    assert below.curate.dedup.radius == 5 and below.synthesize.fractals
    assert (
        recipe.curate.dedup.radius == DedupSettings().radius and recipe.synthesize.fractals is None
    )
    assert [search.threshold for search in recipe.curate.dedup.near] == [0.93]
    assert list(recipe.curate.scores) == ["odd"]
    assert recipe.curate.scores["odd"] == LabelsSettings(kind="labels")
    assert set(recipe.pretrain) == set(below.pretrain) - {"dino", "mae"}
    mine.write_text("extends: base.yaml\ncurate: {rules: !replace [1]}\n")
    with pytest.raises(SluiceError, match="!replace is for a mapping"):
        load_recipe(str(mine))


BASELINES = sorted(path.stem for path in RECIPES.glob("datacomp-*.yaml"))


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_of_datacomp_can_be_planned(name: str, tmp_path: Path) -> None:
    """Its rules name scores that there are, and it removes no duplicates."""
    (tmp_path / "0.tar").write_bytes(tar_bytes(samples(4)))
    changes = [f"data.pool.0.tars={tmp_path}/*.tar"]
    if name == "datacomp-text":
        (tmp_path / "classes.txt").write_text("tench\ngreat white shark\n")
        changes.append(f"curate.scores.classes.file={tmp_path}/classes.txt")
    assert load_recipe(name).curate.dedup == DedupSettings.none()
    text = plan(Options(name, tuple(changes), str(tmp_path / "store")), "curate")
    assert f"curate of {name!r}" in text and "nothing is ingested yet" in text
    assert not (tmp_path / "store").exists()


@given(MAPPINGS, MAPPINGS)
def test_merging_keeps_what_is_above(below: dict[str, object], above: dict[str, object]) -> None:
    assert merge({}, {"a": {"b": None, "c": 1}}) == {"a": {"c": 1}}
    merged = merge(below, above)
    assert merge(below, {}) == below
    assert merge(merged, above) == merged
    assert set(merged) == set(below) | set(above)


def test_overrides_reach_mappings_and_list_elements() -> None:
    value = {"a": {"b": 1}, "rules": [{"reason": "small", "min": 1}, {"name": "x"}]}
    value = override(value, ["a.b=2", "a.c.d=[1, 2]", "rules.small.min=3", "rules.1.name=y"])
    assert value == {
        "a": {"b": 2, "c": {"d": [1, 2]}},
        "rules": [{"reason": "small", "min": 3}, {"name": "y"}],
    }
    with pytest.raises(SluiceError, match=r"path\.to\.key=value"):
        override(value, ["a.b"])
    with pytest.raises(SluiceError, match="small"):
        override(value, ["rules.large.min=3"])
    with pytest.raises(SluiceError, match="plain value"):
        override(value, ["a.b.c=3"])


@pytest.mark.parametrize("text", ["- a list\n", "a: [1\n", ""])
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(SluiceError, match=r"bad\.yaml"):
        load_recipe(str(tmp_path / "bad.yaml"))


def test_an_unknown_recipe_lists_those_there_are() -> None:
    with pytest.raises(SluiceError, match="three-seeds"):
        load_recipe("four-seeds")


def test_further_evaluation_sets_are_ingested_scored_and_compared(tmp_path: Path) -> None:
    for name in ("pool", "held"):
        (tmp_path / f"{name}.tar").write_bytes(bytes(10240))
    changes = (
        f"data.pool.0.tars={tmp_path}/pool.tar",
        f"data.held_out.coco=[{{tars: '{tmp_path}/held.tar'}}]",
    )
    pipeline = Pipeline(load_recipe("your-shards", changes), str(tmp_path / "store"))
    assert {"ingest coco", "score coco", "contamination"} <= set(pipeline.steps)
    assert "score coco" in pipeline.steps["contamination"].needs
    assert "contamination" in pipeline.steps["verdicts"].needs
    with pytest.raises(SluiceError, match="held_out"):
        load_recipe("your-shards", ["data.held_out.curated=[{tars: x.tar}]"])


def test_a_run_may_be_asked_on_splits_of_its_recipe_while_it_trains(tmp_path: Path) -> None:
    store, base = str(tmp_path / "store"), load_recipe()
    name = next(iter(base.pretrain))
    changes = (f"pretrain.{name}.train.evaluate_every=50",)
    plain, pipeline = Pipeline(base, store), Pipeline(load_recipe(None, changes), store)
    step = pipeline.steps[f"pretrain {name}"]
    assert {"ingest trusted", "ingest evaluation"} <= set(step.needs)
    assert step.draft == plain.steps[f"pretrain {name}"].draft
    wrong = load_recipe(None, (*changes, f"pretrain.{name}.train.evaluate.test=evaluations"))
    with pytest.raises(SluiceError, match="no dataset 'evaluations'"):
        Pipeline(wrong, store)


def test_what_an_anchor_shares_is_set_in_one_place_alone() -> None:
    """The demo's recipe writes one CLIP, and lays it under three runs by anchors."""
    place = "pretrain.clip.train.options.flip"
    recipe = load_recipe(None, [f"{place}=0.25"])
    flips = [
        recipe.pretrain["clip"].train.options.flip,  # type: ignore[attr-defined]
        recipe.pretrain["clip-raw"].train.options.flip,  # type: ignore[attr-defined]
        recipe.filter.train.options.flip,  # type: ignore[union-attr]
    ]
    assert flips == [0.25, 0.0, 0.0]
