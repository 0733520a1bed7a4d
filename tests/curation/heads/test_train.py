"""Heads trained on planted directions: what they find, how sure they are, and what is refused."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from curation.heads.file import load_head
from curation.heads.head import softmax
from curation.heads.labels import Labelled, shares
from curation.heads.settings import TrainHeadSettings
from curation.heads.train import train_on
from flows.heads import page
from infra.errors import SluiceError
from tests.curation.heads.made import unit

SETTINGS = TrainHeadSettings(label="good", polarity="higher is better")


def planted(count: int, dimension: int = 32, seed: int = 0, steep: float = 60) -> Labelled:
    """Unit vectors whose label is drawn with probability sigmoid(steep * first number)."""
    vectors = unit(count, dimension, seed).astype(np.float64)
    rng = np.random.default_rng(seed)
    chances = 1 / (1 + np.exp(-steep * vectors[:, 0]))
    labels = (rng.random(count) < chances).astype(np.float64)
    return labelled(vectors, labels, True)


def labelled(vectors: np.ndarray, labels: np.ndarray, classes: bool) -> Labelled:
    uids = [hashlib.sha256(str(row).encode()).hexdigest()[:32] for row in range(len(labels))]
    return Labelled(uids, vectors, labels, classes, {"labels": len(labels), "used": len(labels)})


def test_a_planted_direction_is_learnt_and_its_probabilities_are_ones() -> None:
    trained = train_on(planted(3000), "a/b", SETTINGS)
    held = trained.report["held_out"]
    assert held["auroc"] > 0.95
    assert held["average_precision"] > 0.95
    assert held["ece"] < 0.04
    assert held["brier"] < 0.1
    for row in trained.report["reliability"]["platt"]:
        assert row["low"] - 0.1 < row["predicted"] < row["high"] + 0.1
    assert trained.card.embedding == "a/b" and trained.card.output == "sigmoid"
    assert trained.card.training["held_out"] == held
    assert train_on(planted(3000), "a/b", SETTINGS).data == trained.data


def test_what_cannot_be_learnt_is_not_pretended() -> None:
    """Labels without relation to the vectors: chances near their share, whatever the vector."""
    random = labelled(
        unit(3000, 32).astype(np.float64),
        (np.random.default_rng(5).random(3000) < 0.2).astype(np.float64),
        True,
    )
    held = train_on(random, "a/b", SETTINGS).report["held_out"]
    assert 0.4 < held["auroc"] < 0.6
    assert held["ece"] < 0.06


def test_calibration_mends_a_network_that_is_too_sure() -> None:
    settings = SETTINGS.model_copy(update={"hidden": (32,)})
    report = train_on(planted(1200, steep=20), "a/b", settings).report
    ways = report["calibration"]
    assert ways["platt"]["log_loss"] <= ways["none"]["log_loss"] + 0.01
    assert ways["platt"]["ece"] < 0.12
    assert report["card"]["activations"] == ["relu", "none"]


@pytest.mark.parametrize("hidden", [(), (16,)], ids=["ridge", "network"])
def test_numbers_are_regressed_in_their_own_units(hidden: tuple[int, ...]) -> None:
    vectors = unit(1200, 16, seed=3).astype(np.float64)
    labels = 5 + 4 * vectors[:, 0] + np.random.default_rng(3).normal(0, 0.1, 1200)
    settings = TrainHeadSettings(label="beauty", polarity="higher is better", hidden=hidden)
    trained = train_on(labelled(vectors, labels, False), "a/b", settings)
    held = trained.report["held_out"]
    assert held["r2"] > 0.9 and held["spearman"] > 0.9 and held["rmse"] < 0.3
    assert (trained.card.units, trained.card.output) == ("beauty", "none")
    assert "a number, not a probability" in page(trained.report)


CLASSES = TrainHeadSettings(label="kind")
NAMES = ("bird", "cat", "dog")


def kinds(count: int, dimension: int = 16, seed: int = 0, steep: float = 12) -> Labelled:
    """Unit vectors whose class is drawn with softmax(steep * first three numbers)."""
    vectors = unit(count, dimension, seed).astype(np.float64)
    chances = softmax(steep * vectors[:, :3])
    drawn = np.random.default_rng(seed).random((count, 1))
    labels = (drawn > chances.cumsum(axis=1)[:, :2]).sum(axis=1).astype(np.float64)
    return replace(labelled(vectors, labels, False), names=NAMES)


@pytest.mark.parametrize(
    "hidden", [(), pytest.param((16,), marks=pytest.mark.slow)], ids=["linear", "network"]
)
def test_classes_are_told_apart_and_their_chances_are_ones(
    tmp_path: Path, hidden: tuple[int, ...]
) -> None:
    made = kinds(3000)
    trained = train_on(made, "a/b", CLASSES.model_copy(update={"hidden": hidden}))
    best = (made.vectors[:, :3].argmax(axis=1) == made.labels).mean()  # no head does better
    held = trained.report["held_out"]
    assert best - 0.06 < held["accuracy"] < best + 0.06
    assert held["ece"] < 0.08
    ways = trained.report["calibration"]
    assert ways["temperature"] == held and held["log_loss"] <= ways["none"]["log_loss"] + 0.01
    assert set(trained.report["classes"]) == set(NAMES)
    assert all(
        row["auroc"] > 0.8 and row["ece"] < 0.1 for row in trained.report["classes"].values()
    )
    assert (trained.card.output, trained.card.classes) == ("softmax", NAMES)
    (tmp_path / "kinds.safetensors").write_bytes(trained.data)
    found = load_head(str(tmp_path / "kinds.safetensors")).apply(made.vectors)
    assert found.shape == (3000, 3) and np.allclose(found.sum(axis=1), 1)
    page_of = page(trained.report)
    assert "3 classes" in page_of and "<code>temperature</code>" in page_of


def test_classes_that_cannot_be_learnt_are_told() -> None:
    few = kinds(300)
    few = replace(few, labels=np.where(few.labels == 2, 1, few.labels))
    with pytest.raises(SluiceError, match="holds 0 labels 'dog'; it takes at least 5"):
        train_on(few, "a/b", CLASSES)
    with pytest.raises(SluiceError, match="none is better or worse"):
        train_on(kinds(300), "a/b", SETTINGS)
    with pytest.raises(SluiceError, match="nothing says which end"):
        train_on(planted(300), "a/b", CLASSES)


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (np.ones(100), True, "0 negative labels"),
        (np.zeros(100), True, "0 positive and"),
        (np.arange(100) == 7, True, "at least 5 of each"),
        (np.full(100, 3.5), False, "labels of 1 values"),
        (np.array([0.5, 0.7]), False, "label"),
    ],
    ids=range(5),
)
def test_too_little_to_learn_from_is_told(labels: np.ndarray, classes: bool, message: str) -> None:
    vectors = unit(len(labels), 8).astype(np.float64)
    with pytest.raises(SluiceError, match=message):
        train_on(labelled(vectors, labels.astype(np.float64), classes), "a/b", SETTINGS)


def test_which_labels_are_held_out_depends_on_their_uids_alone() -> None:
    uids = [f"{number:032x}" for number in range(2000)]
    found = shares(uids, "held out")
    assert shares(uids[500:600], "held out").tolist() == found[500:600].tolist()
    assert 0.17 < (found < 0.2).mean() < 0.23
    assert abs(np.corrcoef(found, shares(uids, "fold"))[0, 1]) < 0.1
