import pytest

from infra.artifacts import Artifact
from infra.dataset import read_table
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from infra.runner import InlineRunner, LocalRunner, Runner
from infra.stage import run_stage
from pretrain.evaluate.stage import (
    RESULTS,
    EvaluateWork,
    evaluate_draft,
    evaluate_items,
    read_results,
)
from pretrain.evaluate_settings import Comparison, EvaluateSettings

SETTINGS = EvaluateSettings(
    resamples=200,
    compare=(
        Comparison(name="clip against random", pairs=(("clip", "clip-random"),)),
        Comparison(name="any against mae", pairs=(("pixels", "mae"), ("dino", "mae"))),
    ),
)
DATASETS = {"train": "a" * 16, "test": "b" * 16}


def sources(runs: dict[str, str]) -> dict[str, str]:
    return {**runs, "clip-random": f"random:{runs['clip']}", "pixels": "pixels"}


def make(store: str, runs: dict[str, str], splits: tuple[str, str], runner: Runner) -> Artifact:
    encoders = sources(runs)
    draft = evaluate_draft(store, encoders, DATASETS, SETTINGS)
    work = EvaluateWork(draft.url, encoders, *splits, SETTINGS)
    items = evaluate_items(encoders)
    with runner:
        made = run_stage(
            "evaluate", {"": draft}, items, work, runner, SilentDisplay(), extra=work.comparisons
        )
    return made[""]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory, runs, colour_splits):
    return make(str(tmp_path_factory.mktemp("store")), runs, colour_splits, InlineRunner())


def test_a_row_for_every_figure(evaluation):
    table = read_results(evaluation)
    assert table.schema.equals(RESULTS)
    rows = [row for row in table.to_pylist() if " " not in row["encoder"]]
    found = {(row["encoder"], row["task"], row["metric"]) for row in rows}
    text = {"clip", "clip-random"}
    expected = {
        (encoder, task, metric)
        for encoder in ("clip", "dino", "mae", "clip-random", "pixels")
        for task in ("zero_shot", "knn", "linear_probe")
        for metric in ("accuracy", "mean_per_class")
        if task != "zero_shot" or encoder in text
    }
    assert found == expected and len(rows) == len(expected)
    for row in rows:
        assert 0 <= row["ci_low"] <= row["value"] <= row["ci_high"] <= 1 and row["n"] == 60
    seeds = {row["encoder"]: row["seed"] for row in rows}
    assert seeds == {"clip": 5, "dino": 6, "mae": 7, "clip-random": 0, "pixels": None}


def test_colours_are_told_apart_by_their_pixels(evaluation):
    rows = read_results(evaluation).to_pylist()
    pixels = {row["task"]: row["value"] for row in rows if row["encoder"] == "pixels"}
    assert pixels == {"knn": 1.0, "linear_probe": 1.0}


def test_answers_are_kept_for_every_test_sample(evaluation):
    table = read_table(evaluation.path("predictions", "clip.parquet"))
    assert table.column_names == ["uid", "label", "zero_shot", "knn", "linear_probe"]
    rows = table.to_pylist()
    results = read_results(evaluation).to_pylist()
    for task in ("zero_shot", "knn"):
        right = sum(row[task] == row["label"] for row in rows) / len(rows)
        figure = next(
            row["value"]
            for row in results
            if (row["encoder"], row["task"], row["metric"]) == ("clip", task, "accuracy")
        )
        assert figure == pytest.approx(right)


def test_differences_are_those_of_the_figures(evaluation):
    rows = read_results(evaluation).to_pylist()
    value = {(row["encoder"], row["task"], row["metric"]): row for row in rows}
    for task in ("zero_shot", "knn", "linear_probe"):
        for metric in ("accuracy", "mean_per_class"):
            row = value["clip - clip-random", task, metric]
            ours, theirs = (value[name, task, metric]["value"] for name in ("clip", "clip-random"))
            assert row["value"] == pytest.approx(ours - theirs)
            assert row["ci_low"] <= row["value"] <= row["ci_high"] and row["seed"] is None
    mean = value["any against mae", "knn", "accuracy_over_seeds"]
    pairs = [value[f"{name} - mae", "knn", "accuracy"]["value"] for name in ("pixels", "dino")]
    assert mean["value"] == pytest.approx(sum(pairs) / 2) and mean["n"] == 2
    assert ("clip against random", "knn", "accuracy_over_seeds") not in value


def test_parts_balance_and_say_what_was_done(evaluation):
    parts = {part.name: part for part in evaluation.parts}
    assert set(parts) == {"clip", "dino", "mae", "clip-random", "pixels"}
    assert parts["dino"].kept == 60
    extra = parts["dino"].extra
    assert (extra["classes"], extra["dimension"], extra["train"]) == (3, 24, 120)
    assert extra["strength"] in SETTINGS.strengths


@pytest.mark.slow
def test_the_same_bytes_from_two_processes(evaluation, runs, colour_splits, tmp_path):
    again = make(str(tmp_path), runs, colour_splits, LocalRunner(2))
    assert again.content == evaluation.content


def test_drafts_know_their_parents(tmp_path):
    encoders = {"a": "1" * 16, "b": f"random:{'2' * 16}", "c": "pixels"}
    draft = evaluate_draft(str(tmp_path), encoders, DATASETS, EvaluateSettings())
    assert draft.spec.parents == ("a" * 16, "b" * 16, "1" * 16, "2" * 16)
    assert draft.url == f"{tmp_path}/evaluations/{draft.spec.digest}"
    other = evaluate_draft(str(tmp_path), encoders, DATASETS, EvaluateSettings(neighbours=5))
    assert other.spec.digest != draft.spec.digest


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(SluiceError, match="'clip/raw' has characters"):
        evaluate_draft(str(tmp_path), {"clip/raw": "1"}, DATASETS, EvaluateSettings())
    with pytest.raises(SluiceError, match="names encoder 'mae'") as error:
        evaluate_draft(str(tmp_path), {"maes": "1", "pixels": "pixels"}, DATASETS, SETTINGS_MAE)
    assert "did you mean 'maes'" in error.value.way_out


SETTINGS_MAE = EvaluateSettings(compare=(Comparison(name="x", pairs=(("mae", "pixels"),)),))
