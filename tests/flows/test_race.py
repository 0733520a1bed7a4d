"""A race in small: what recipes share runs once, figures are those of the artifacts, resume."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.main import Result
from flows.race.main import RaceOptions, execute, plan, prepare
from flows.race.page import view
from flows.race.settings import RaceSettings, count, labels
from flows.race.steps import RAW
from infra import artifacts
from infra.dataset import read_table
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from tests.curation.sources.made import samples, tar_bytes
from tests.flows.conftest import SMALL
from tests.flows.report.test_render import Page

OF_RACE = (
    "run.executor=inline",
    "run.workers=1",
    "race.train.batch=16",
    "race.evaluate.resamples=100",
    "race.evaluate.tasks=[zero_shot, knn]",
)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Three recipes that differ in one threshold."""
    folder = tmp_path_factory.mktemp("recipes")
    near = "[{{threshold: {}, floor: 0.8}}]"
    base = (
        f"extends: curate-and-pretrain\nname: {{}}\ncurate: {{{{dedup: {{{{near: {near}}}}}}}}}\n"
    )
    for name, least in (("loose", 0.99), ("strict", 0.85), ("middle", 0.95)):
        (folder / f"{name}.yaml").write_text(base.format(name, least))
    return {path.stem: str(path) for path in folder.glob("*.yaml")}


def options(recipes: Sequence[str], store: Path, seeds: int = 2, *more: str) -> RaceOptions:
    return RaceOptions(tuple(recipes), None, "32", seeds, (*SMALL, *OF_RACE, *more), str(store))


def run_race(chosen: RaceOptions) -> Result:
    return execute(prepare(chosen), SilentDisplay(), lambda step, session: step.run(session))


def ran(result: Result) -> list[str]:
    return [timing.name for timing in result.timings if not timing.from_store]


def table(chosen: RaceOptions) -> dict[str, Any]:
    return json.loads(Path(prepare(chosen).table.url, "race.json").read_text())


@pytest.fixture(scope="module")
def raced(
    recipes: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[RaceOptions, Result]:
    """A race of two recipes and two seeds; treat its store as read-only."""
    store = tmp_path_factory.mktemp("race") / "store"
    chosen = options([recipes["loose"], recipes["strict"]], store)
    return chosen, run_race(chosen)


Raced = tuple[RaceOptions, Result]


@pytest.mark.slow
def test_what_recipes_share_runs_once(raced: Raced) -> None:
    names = [timing.name for timing in raced[1].timings]
    assert len(set(names)) == len(names)
    for shared in ("ingest pool", "score pool", "filter network", "embed pool", "duplicate pairs"):
        assert names.count(shared) == 1
    for own in ("verdicts", "curated version"):
        assert own not in names
        assert {f"{own} (loose)", f"{own} (strict)"} <= set(names)
    urls = [
        draft.url for step in prepare(raced[0]).steps.values() for draft in step.drafts.values()
    ]
    assert len(set(urls)) == len(urls)


@pytest.mark.slow
def test_the_table_tells_what_the_artifacts_hold(raced: Raced) -> None:
    race, found = prepare(raced[0]), table(raced[0])
    assert [entry["label"] for entry in found["entrants"]] == [RAW, "loose", "strict"]
    assert [entry["baseline"] for entry in found["entrants"]] == [None, RAW, RAW]
    for version, entry in zip(race.versions, found["entrants"], strict=True):
        made = artifacts.load(version.draft.url)
        assert made is not None
        assert (entry["rows"], entry["kept"]) == (made.totals["rows"], made.totals["kept"])
        assert entry["version"] == made.digest
        (measured,) = Path(version.draft.url).glob("measures/*/measures.json")
        assert entry["measures"] == json.loads(measured.read_text())
        assert entry["measures"]["kept"] == entry["kept"]
        assert entry["epochs"] == entry["samples_seen"] / entry["kept"]
        for task, figures in entry["evaluation"].items():
            seeds = [_accuracy(race.steps[f"evaluate {version.label}, seed {seed}"].draft.url, task)
                     for seed in range(2)]  # fmt: skip
            assert figures["accuracy"]["seeds"] == pytest.approx(seeds)
            assert figures["accuracy"]["value"] == pytest.approx(np.mean(seeds))
    strict, raw = found["entrants"][2], found["entrants"][0]
    for task, figures in strict["difference"].items():
        ours, theirs = (each["evaluation"][task]["accuracy"]["seeds"] for each in (strict, raw))
        assert figures["accuracy"]["seeds"] == pytest.approx(np.subtract(ours, theirs))
        assert figures["accuracy"]["over"] == "seeds"
    assert raw["measures"]["coverage"] == 1
    assert strict["kept"] < found["entrants"][1]["kept"] < raw["kept"]


def _accuracy(url: str, task: str) -> float:
    (value,) = [
        row["value"]
        for row in read_table(f"{url}/results/encoder.parquet").to_pylist()
        if (row["task"], row["metric"]) == (task, "accuracy")
    ]
    return value


@pytest.mark.slow
def test_the_page_shows_the_figures_of_the_table(raced: Raced) -> None:
    assert raced[1].report
    text = Path(raced[1].report).read_text(encoding="utf-8")
    page, found = Page(text), table(raced[0])
    assert not {name for name, _ in page.elements} & {"script", "iframe", "form", "object"}
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text
    (body,) = re.findall(r'<table class="race">.*?<tbody>(.*?)</tbody>', text, re.DOTALL)
    lines = body.split("<tr>")[1:]
    assert len(lines) == len(found["entrants"]) == 3
    for line, entry in zip(lines, found["entrants"], strict=True):
        shown = line.replace("−", "-")
        assert entry["label"] in shown
        for value in (entry["kept"], entry["samples_seen"], f"{entry['epochs']:.1f} epochs"):
            assert f">{value}<" in shown
        measures = entry["measures"]
        for name in ("clip_score", "diversity"):
            assert f"{measures[name]:.3f}" in shown
        assert f"{round(measures['cmmd'], 2) + 0.0:.2f}" in shown
        for task in found["tasks"]:
            figure = entry["evaluation"][task]["accuracy"]
            assert f"{100 * figure['value']:.1f}" in shown
            assert f"{100 * figure['low']:.1f} to {100 * figure['high']:.1f}" in shown
            if entry["difference"]:
                gain = entry["difference"][task]["accuracy"]
                assert f">{100 * gain['value']:+.1f}<" in shown
                assert f"{100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}" in shown
    assert len(page.all("figure")) == 1 + len(found["tasks"])


def entrant(label: str, accuracy: float, low: float | None = None) -> dict[str, Any]:
    figure = {"value": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.1}
    gain = {"value": 0.05, "low": low, "high": 0.1}
    return {
        "label": label,
        "baseline": None if low is None else RAW,
        "evaluation": {"knn": {"accuracy": figure}},
        "difference": None if low is None else {"knn": {"accuracy": gain}},
        "measures": {"cells": 4},
        "test_samples": 10,
    }


@pytest.mark.parametrize(
    ("entrants", "verdict", "word"),
    [
        ([entrant(RAW, 0.5), entrant("<b>", 0.55, 0.01)], "yes", "<b>."),
        ([entrant(RAW, 0.5), entrant("a", 0.55, -0.01)], "unclear", "a, but it may be luck."),
        ([entrant(RAW, 0.5), entrant("a", 0.4, -0.2)], "no", "None beats the raw pool."),
        ([entrant(RAW, 0.5), entrant("a", 0.5, 0.0)], "no", "None beats the raw pool."),
    ],
)
def test_the_answer_is_no_surer_than_its_interval(
    entrants: list[dict[str, Any]], verdict: str, word: str
) -> None:
    found = view(
        {
            "entrants": entrants, "tasks": ["zero_shot", "knn"], "samples_seen": 64, "seeds": 2,
            "model": "RN50", "objective": "clip", "confidence": 0.95, "measures": {},
        },
        "0" * 16,
    )  # fmt: skip
    assert (found["verdict"], found["word"]) == (verdict, word)
    assert found["tasks"] == ["knn"]
    assert "<b>" not in found["headline"]


@pytest.mark.slow
def test_a_second_race_runs_nothing(raced: Raced) -> None:
    store = Path(str(raced[0].store))
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*.*") if path.is_file()}
    assert ran(run_race(raced[0])) == []
    after = {path: path.stat().st_mtime_ns for path in store.rglob("*.*") if path.is_file()}
    assert {path for path in before if before[path] != after[path]} <= set(
        store.glob("*/*/report/*")
    )


@pytest.mark.slow
def test_a_race_goes_on_where_it_was_killed(raced: Raced, tmp_path: Path) -> None:
    """What a kill left undone is made again, and the table has the same bytes."""
    store = tmp_path / "store"
    shutil.copytree(str(raced[0].store), store)
    chosen = replace(raced[0], store=str(store))
    race, name = prepare(chosen), "strict, seed 1"
    for step in (f"train {name}", f"evaluate {name}", "table"):
        shutil.rmtree(race.steps[step].draft.url)
    assert ran(run_race(chosen)) == [f"train {name}", f"evaluate {name}", "table"]
    assert table(chosen) == table(raced[0])


@pytest.mark.slow
def test_the_curated_version_people_use_stays_the_latest(raced: Raced) -> None:
    store = Path(str(raced[0].store))
    assert (store / "pool" / "latest").exists()
    assert not (store / "curated" / "latest").exists()


@pytest.mark.slow
def test_an_added_recipe_runs_its_own_steps_alone(raced: Raced, recipes: dict[str, str]) -> None:
    given = (*raced[0].recipes, recipes["middle"])
    chosen = options(given, Path(str(raced[0].store)))
    assert "to do: 8 of" in plan(chosen)
    assert ran(run_race(chosen)) == [
        "verdicts (middle)",
        "curated version (middle)",
        "measure middle",
        *(f"{what} middle, seed {seed}" for seed in (0, 1) for what in ("train", "evaluate")),
        "table",
    ]


@pytest.mark.slow
def test_an_added_seed_trains_that_seed_alone(raced: Raced) -> None:
    store = Path(str(raced[0].store))
    names = ran(run_race(options(raced[0].recipes, store, 3)))
    assert [name for name in names if name != "table"] == [
        f"{what} {label}, seed 2" for label in (RAW, "loose", "strict")
        for what in ("train", "evaluate")
    ]  # fmt: skip


@pytest.mark.slow
def test_one_seed_has_the_interval_of_the_test_images(raced: Raced) -> None:
    chosen = options(raced[0].recipes, Path(str(raced[0].store)), 1, "race.raw=false")
    assert ran(run_race(chosen)) == ["table"]
    loose, strict = table(chosen)["entrants"]
    assert (loose["baseline"], loose["difference"]) == (None, None)
    assert strict["baseline"] == "loose"
    for figures in strict["difference"].values():
        figure = figures["accuracy"]
        assert figure["over"] == "images"
        assert [figure["low"], figure["high"]] == figure["over_images"]


def test_a_race_names_what_is_wrong(recipes: dict[str, str], tmp_path: Path) -> None:
    two = (recipes["loose"], recipes["strict"])
    (tmp_path / "00000.tar").write_bytes(tar_bytes(samples(3)))
    alone = f"extends: your-shards\nname: alone\ndata: {{pool: [{{tars: {tmp_path}/*.tar}}]}}\n"
    (tmp_path / "alone.yaml").write_text(alone)
    for wrong, words in (
        (RaceOptions(()), "needs recipes"),
        (RaceOptions((two[0], two[0])), "twice"),
        (RaceOptions(two, budget="many"), "no number of samples"),
        (RaceOptions(two, budget="10"), "less than one batch"),
        (RaceOptions(two, overrides=("race.train.steps=3",)), r"train\.steps"),
        (RaceOptions(two, overrides=("race.sedes=3",)), "seeds"),
        (RaceOptions((two[0], str(tmp_path / "alone.yaml"))), "no trusted split"),
    ):
        with pytest.raises(SluiceError, match=words):
            prepare(wrong)
    other = tmp_path / "other.yaml"
    other.write_text("extends: curate-and-pretrain\nname: other\ndata: {demo: {seed: 5}}\n")
    with pytest.raises(SluiceError, match="differ in their trusted split"):
        prepare(RaceOptions((two[0], str(other))))


@pytest.mark.parametrize(
    ("text", "value"),
    [("64000", 64000), ("32k", 32000), ("1.5M", 1_500_000), ("12_800", 12800), ("2G", 2 * 10**9)],
)
def test_budgets_are_read_as_people_write_them(text: str, value: int) -> None:
    assert count(text) == value


@pytest.mark.parametrize("text", ["", "k", "-3", "1.5", "3x", "1e3"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="samples"):
        count(text)


def test_a_budget_is_whole_batches() -> None:
    made = RaceSettings.model_validate(
        {"train": {"objective": "clip", "batch": 48}, "budget": "1k", "seeds": 1}
    )
    assert (made.steps, made.samples_seen) == (20, 960)
    assert made.training(4).seed == 4


def test_recipes_are_called_by_their_files() -> None:
    assert labels(["a/x.yaml", "demo"]) == ["x", "demo"]
    assert labels(["a/x.yaml", "b/x.yaml"]) == ["a/x.yaml", "b/x.yaml"]
