"""How well a model of time series does: classes told apart, and the score over training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from isocline import plots

# --- classes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("decimals", [1, 6])
def test_the_area_below_the_roc_curve_is_that_of_scikit_learn(decimals: int) -> None:
    draws = np.random.default_rng(decimals)
    labels = draws.integers(0, 2, 300)
    scores = np.round(np.clip(draws.normal(0.4 + 0.2 * labels, 0.2), 0, 1), decimals)  # ties
    figure = plots.plot_classification(scores, labels, ["no", "yes"])
    roc, _ = figure.axes
    area = roc_auc_score(labels, scores)
    assert roc.get_legend().get_texts()[1].get_text() == f"model, AUC {area:.3f}"
    assert roc.get_title() == "ROC of 'yes'"
    curve = roc.lines[1].get_xydata()
    np.testing.assert_allclose(curve[[0, -1]], [[0, 0], [1, 1]])


def test_the_matrix_has_a_row_for_each_true_class() -> None:
    chances = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.1, 0.6, 0.3], [0.1, 0.2, 0.7]])
    (axes,) = plots.plot_classification(chances, [0, 1, 2, 2], ["a", "b", "c"], "title").axes
    shares = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(shares, [[1, 0, 0], [0, 1, 0], [0, 0.5, 0.5]])
    cell = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}
    assert cell[(1, 2)] == "1\n50 %"  # column 1, row 2: a "c" taken for a "b"
    assert cell[(2, 1)] == "0\n0 %"
    assert axes.get_title() == "title, accuracy 75.0 %"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


def test_without_both_classes_there_is_no_roc_curve() -> None:
    (axes,) = plots.plot_classification([[0.9, 0.1], [0.2, 0.8]], [1, 1]).axes
    assert axes.get_title() == "accuracy 50.0 %"


# --- training ---------------------------------------------------------------------------------


def test_progress_of_a_model_that_solves_nothing_has_one_panel() -> None:
    rows = [{"step": 10.0, "loss": 2.0}, {"step": 20.0, "loss": 1.0, "held": 1.5}]
    series = [("loss", "training"), ("held", "held out")]
    (score,) = plots.plot_progress(rows, series, "loss (nats)").axes
    np.testing.assert_allclose(score.lines[0].get_xydata(), [[10, 2], [20, 1]])
    np.testing.assert_allclose(score.lines[1].get_xydata(), [[20, 1.5]])
    rows[0]["nfe_forward"] = 12.0
    _, work = plots.plot_progress(rows, series, "loss (nats)", 0.5, "least").axes
    np.testing.assert_allclose(work.lines[0].get_xydata(), [[10, 12]])
