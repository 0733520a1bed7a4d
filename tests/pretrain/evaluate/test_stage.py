from typing import get_args

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
from pretrain.evaluate_settings import CLASSES, Comparison, EvaluateSettings, Task

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


ALL = EvaluateSettings(
    tasks=get_args(Task),
    descriptions={name: (f"something {name}", "a {} thing") for name in ("red", "green", "blue")},
    shots=(1, 5, 100),
    draws=3,
    strengths=(1e-2, 1.0),
    recalls=(1, 5),
    outside="greys",
    corruptions=("gaussian_noise", "pixelate"),
    severities=(1, 5),
    corrupted=20,
    resamples=100,
)


@pytest.fixture(scope="module")
def all_tasks(tmp_path_factory, runs, pairs, greys):
    """Every task, of two encoders, on pictures with captions, labels and a concept."""
    encoders = {"clip": runs["clip"], "pixels": "pixels"}
    datasets = {**DATASETS, "outside": "c" * 16}
    draft = evaluate_draft(str(tmp_path_factory.mktemp("all")), encoders, datasets, ALL)
    assert "c" * 16 in draft.spec.parents
    work = EvaluateWork(draft.url, encoders, pairs, pairs, ALL, greys)
    with InlineRunner() as runner:
        made = run_stage(
            "evaluate", {"": draft}, evaluate_items(encoders), work, runner, SilentDisplay(),
            extra=work.comparisons,
        )  # fmt: skip
    return made[""]


def test_every_task_has_rows_with_intervals(all_tasks):
    rows = read_results(all_tasks).to_pylist()
    metrics = {}
    for row in rows:
        metrics.setdefault((row["encoder"], row["task"]), []).append(row["metric"])
        assert row["ci_low"] <= row["ci_high"], row
        if row["task"] != "calibration":  # its bootstrap is biased upwards
            assert row["ci_low"] - 1e-9 <= row["value"] <= row["ci_high"] + 1e-9, row
    text = {"zero_shot", "zero_shot_descriptions", "retrieval"}
    assert {task for name, task in metrics if name == "clip"} == set(get_args(Task))
    assert {task for name, task in metrics if name == "pixels"} == set(get_args(Task)) - text
    assert metrics["clip", "few_shot"] == ["accuracy_1_shot", "accuracy_5_shot"]
    assert metrics["clip", "retrieval"] == [
        f"{way}_recall_at_{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5)
    ]
    assert metrics["pixels", "calibration"] == [
        f"linear_probe_{name}{word}"
        for word in ("", "_fitted")
        for name in ("ece_15_bins", "brier")
    ]
    assert len(metrics["clip", "calibration"]) == 8
    assert metrics["pixels", "multi_label"] == ["linear_probe_mean_average_precision"]
    assert metrics["pixels", "out_of_distribution"] == ["max_softmax_auroc", "knn_auroc"]
    assert metrics["pixels", "robustness"] == [
        "accuracy_clean", "accuracy_corrupted", "accuracy_gaussian_noise", "accuracy_pixelate",
        "accuracy_severity_1", "accuracy_severity_5",
    ]  # fmt: skip


def test_what_pixels_know_of_colours(all_tasks):
    value = {
        (row["task"], row["metric"]): row["value"]
        for row in read_results(all_tasks).to_pylist()
        if row["encoder"] == "pixels"
    }
    assert value["few_shot", "accuracy_5_shot"] > 0.9
    assert value["multi_label", "linear_probe_mean_average_precision"] > 0.99
    assert value["out_of_distribution", "knn_auroc"] > 0.95  # greys are no colours
    assert value["robustness", "accuracy_clean"] == 1
    assert value["calibration", "linear_probe_brier_fitted"] < 0.2


def test_notes_say_what_was_chosen_and_left_out(all_tasks):
    extra = {part.name: part.extra for part in all_tasks.parts}["clip"]
    assert extra["few_shot"] == {"left_out": [100], "fewest_of_a_class": 20}
    assert set(extra["temperatures"]) == {"linear_probe", "zero_shot"} and extra["held_out"] == 12
    assert extra["retrieval"] == {"texts": 60, "without_caption": 0}
    assert extra["outside"] == 23  # one of them is damaged
    grid = extra["robustness"]["accuracy"]
    assert {name: len(values) for name, values in grid.items()} == {
        "gaussian_noise": 2, "pixelate": 2,
    }  # fmt: skip
    table = read_table(all_tasks.path("predictions", "clip.parquet"))
    assert table.column_names == ["uid", "label", *CLASSES]


def test_tasks_without_classes_need_no_label(tmp_path, runs, pairs):
    from pretrain import encoders
    from pretrain.evaluate import tasks

    encoder = encoders.load(runs["clip"])
    settings = EvaluateSettings(tasks=("retrieval",), label="nothing", resamples=100)
    outcome = tasks.evaluate(encoder, pairs, pairs, settings)
    assert set(outcome.figures["retrieval"]) and outcome.answers == {}
    with pytest.raises(SluiceError, match="no field 'nothing'"):
        tasks.evaluate(encoder, pairs, pairs, settings.model_copy(update={"tasks": ("knn",)}))


def test_a_robustness_batch_does_not_matter(runs, colour_splits, monkeypatch):
    from pretrain import encoders
    from pretrain.evaluate import robustness, tasks

    settings = EvaluateSettings(
        tasks=("robustness",), corruptions=("shot_noise",), severities=(5,), corrupted=7,
        strengths=(1.0,), resamples=100,
    )  # fmt: skip
    found = []
    for batch in (64, 3):
        monkeypatch.setattr(robustness, "BATCH", batch)
        outcome = tasks.evaluate(encoders.load("pixels"), *colour_splits, settings)
        found.append(outcome.figures["robustness"])
    assert found[0] == found[1] and found[0]["accuracy_corrupted"].n == 7
