"""Figures of a classifier against scikit-learn's and against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from curation.heads import calibration


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=60))
def test_ranking_figures_are_scikit_learn_s(rows: list[tuple[bool, int]]) -> None:
    labels = np.array([label for label, _ in rows], np.float64)
    scores = np.array([score for _, score in rows], np.float64)
    found = calibration.auroc(labels, scores), calibration.average_precision(labels, scores)
    if labels.any():
        assert found[1] == pytest.approx(average_precision_score(labels, scores))
    if len(set(labels)) == 2:
        assert found[0] == pytest.approx(roc_auc_score(labels, scores))
    else:
        assert np.isnan(found[0])


def test_wilson_s_interval_is_the_published_one() -> None:
    low, high = calibration.wilson(81, 263)  # Newcombe 1998, table I
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = calibration.wilson(0, 20)
    assert (low, round(high, 4)) == (0, 0.1611)
    assert calibration.wilson(0, 0) == (0, 1)


def test_calibration_error_is_the_mean_gap() -> None:
    labels = np.array([0, 1, 1, 1.0])
    probabilities = np.array([0.2, 0.3, 0.9, 1.0])
    found = calibration.probability_figures(labels, probabilities)
    assert found["ece"] == pytest.approx((0.2 + 0.7 + 0.1) / 4)
    assert found["brier"] == pytest.approx(brier_score_loss(labels, probabilities))
    table = calibration.reliability(labels, probabilities)
    assert [row["count"] for row in table] == [1, 1, 2]


def test_scaling_takes_back_what_made_logits_wrong() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 40_000)
    labels = (rng.random(40_000) < 1 / (1 + np.exp(-logits))).astype(np.float64)
    slope, shift = calibration.platt(labels, 3 * logits + 6)
    assert (slope, shift) == (pytest.approx(1 / 3, abs=0.02), pytest.approx(-2, abs=0.1))
    assert calibration.temperature(labels, 3 * logits)[0] == pytest.approx(1 / 3, abs=0.02)


def test_scaling_stays_finite_where_a_threshold_separates_the_classes() -> None:
    labels, logits = np.repeat([0.0, 1.0], 50), np.repeat([-1.0, 1.0], 50)
    assert 1 < calibration.platt(labels, logits)[0] < 10
    assert np.isfinite(calibration.temperature(labels, logits)[0])


def test_figures_at_a_threshold_that_nothing_reaches() -> None:
    found = calibration.at_threshold(np.array([0, 1.0]), np.array([0.1, 0.2]), 0.5)
    assert (found["precision"], found["precision_interval"]) == (None, (0, 1))
    assert (found["recall"], found["accuracy"]) == (0, 0.5)


def test_regression_figures() -> None:
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 9, 100).astype(float), rng.integers(0, 9, 100).astype(float)
    found = calibration.regression_figures(labels, scores)
    assert found["spearman"] == pytest.approx(spearmanr(labels, scores).statistic)
    assert calibration.regression_figures(labels, labels)["r2"] == 1
