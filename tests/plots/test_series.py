"""Figures of time series: the right panels, every number where it belongs, bad input refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from PIL import Image

import isocline as ic
from isocline import plots

TIMES = torch.linspace(0, 2, 21)
NAN = math.nan


def panel(features: int = 2, rows: int = 5, **changes: Any) -> plots.SeriesPanel:
    """A rising line in each feature, with dots on it in the first half of the time."""
    slopes = torch.arange(1.0, features + 1)
    seen = torch.linspace(0.1, 0.9, rows)
    mean = TIMES[:, None] * slopes
    plain = plots.SeriesPanel(seen, seen[:, None] * slopes, TIMES, mean, name="series")
    return replace(plain, **changes)


def full(features: int = 2) -> plots.SeriesPanel:
    plain = panel(features)
    return replace(
        plain,
        lower=plain.mean - 0.5,
        upper=plain.mean + 0.5,
        truth=plain.mean + 0.1,
        times_held_out=torch.tensor([1.2, 1.4]),
        held_out=torch.ones(2, features),
    )


def render(figure: Figure, dpi: int = 60) -> Image.Image:
    with BytesIO() as file:
        figure.savefig(file, format="png", dpi=dpi)
        return Image.open(file).convert("RGB")


def dots(axes: Axes) -> list[np.ndarray]:
    return [
        np.asarray(line.get_xydata())
        for line in axes.lines
        if line.get_marker() == "o" and len(np.atleast_1d(line.get_xdata()))
    ]


def paths(axes: Axes, style: str) -> list[np.ndarray]:
    return [
        np.asarray(line.get_xydata())
        for line in axes.lines
        if line.get_linestyle() == style and line.get_marker() in ("None", None, "")
    ]


def legend(figure: Figure) -> list[str]:
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def traversal() -> Figure:
    return plots.plot_traversal(torch.randn(2, 3, 9, 2), [-2, 0, 2], title="title")


FIGURES: dict[str, Callable[[], Figure]] = {
    "series": lambda: plots.plot_series([full(6)] * 2, split=1.0, title="title"),
    "one feature": lambda: plots.plot_series([full(1)] * 5, title="title"),
    "plane": lambda: plots.plot_plane_series([full()] * 5, split=1.0, title="title"),
    "models": lambda: plots.plot_plane_series({"a": [full()] * 2, "b": [panel()] * 2}),
    "latent": lambda: plots.plot_latent_space(torch.randn(40, 5), torch.arange(40) % 9 - 1),
    "histograms": lambda: plots.plot_latent_space(torch.randn(40, 1), torch.arange(40) % 2),
    "traversal": traversal,
    "series traversal": lambda: plots.plot_series_traversal(
        torch.randn(5, 3, 9), range(9), [-2, 0, 2], title="title"
    ),
    "intensity": lambda: plots.plot_intensity(
        TIMES, torch.rand(4, 21), [torch.rand(n) for n in range(4)], torch.rand(4, 21)
    ),
    "roc": lambda: plots.plot_classification(torch.rand(30), torch.arange(30) % 2),
    "confusion": lambda: plots.plot_classification(torch.eye(4), torch.arange(4), list("abcd")),
    "many classes": lambda: plots.plot_classification(torch.eye(25), torch.arange(25)),
    "progress": lambda: plots.plot_progress(
        [{"step": 1.0, "elbo": -2.0, "nfe_forward": 9.0}], [("elbo", "training")], "ELBO (nats)"
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_whole_without_warnings_and_without_global_state(name: str) -> None:
    before = dict(plt.rcParams)
    figure = FIGURES[name]()
    figure.canvas.draw()
    assert plt.get_fignums() == []
    assert dict(plt.rcParams) == before
    texts = [text for found in figure.legends for text in found.get_texts()]
    for axes in figure.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
    boxes = {t.get_text(): t.get_window_extent() for t in texts if t.get_text()}
    page = figure.bbox.padded(1)
    cut = [text for text, box in boxes.items() if page.count_contains(box.corners()) < 4]
    assert cut == []


# --- series over time -------------------------------------------------------------------------


def test_a_series_shows_its_most_observed_features() -> None:
    observed = torch.full((5, 6), NAN)
    for feature, count in ((1, 3), (3, 5), (4, 1), (5, 4)):
        observed[:count, feature] = torch.arange(count) + 10.0 * feature
    one = panel(6, observed=observed)
    names = [f"feature {index}" for index in range(6)]
    figure = plots.plot_series([one, one], names, limit=3, xlabel="hours")
    assert len(figure.axes) == 3 * 2
    rows = figure.axes[::2]
    assert [axes.get_ylabel() for axes in rows] == ["feature 1", "feature 3", "feature 5"]
    for axes, feature, count in zip(rows, (1, 3, 5), (3, 5, 4), strict=True):
        (drawn,) = dots(axes)
        expected = torch.stack([one.times_observed, observed[:, feature]], 1)[:count]
        np.testing.assert_allclose(drawn, expected)
    assert [axes.get_xlabel() for axes in figure.axes] == [""] * 4 + ["hours"] * 2
    # A feature that was never observed is left out, unless there is no other.
    assert len(plots.plot_series([one], limit=6).axes) == 4
    empty = panel(6, times_observed=[], observed=np.zeros((0, 6)))
    assert len(plots.plot_series([empty]).axes) == 1


def test_a_path_is_solid_up_to_the_split_and_dashed_beyond() -> None:
    one = full(1)
    figure = plots.plot_series([one], split=1.0, band="90 % interval")
    (axes,) = figure.axes
    truth, inside = paths(axes, "-")
    (beyond,) = paths(axes, "--")
    np.testing.assert_allclose(truth[:, 1], one.truth[:, 0])
    np.testing.assert_allclose(inside, torch.stack([TIMES, one.mean[:, 0]], 1)[:11])
    # Joined: the first point beyond is the last one inside.
    np.testing.assert_allclose(beyond, torch.stack([TIMES, one.mean[:, 0]], 1)[10:])
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    assert corners[:, 1].max() == pytest.approx(2.5)
    assert corners[:, 1].min() == pytest.approx(-0.5)
    seen, hidden = dots(axes)
    assert (len(seen), len(hidden)) == (5, 2)
    assert legend(figure) == [
        "observed", "held out", "truth", "reconstruction", "extrapolation", "90 % interval",
    ]  # fmt: skip
    assert legend(plots.plot_series([panel(1)])) == ["observed", "model"]
    # A split after the end of the path leaves nothing to be dashed.
    late = plots.plot_series([one], split=5.0)
    assert paths(late.axes[0], "--") == []
    assert "extrapolation" not in legend(late)


@pytest.mark.parametrize("height", [1e6, -1e6])
def test_a_row_shares_its_axis_and_a_wild_extrapolation_does_not_stretch_it(height: float) -> None:
    wild = panel(1, mean=torch.where(TIMES > 1.05, height, TIMES)[:, None])
    figure = plots.plot_series([panel(1), wild], split=1.0)
    limits = {axes.get_ylim() for axes in figure.axes}
    assert len(limits) == 1
    assert max(map(abs, limits.pop())) < 5
    # A reconstruction is never cut.
    assert max(map(abs, plots.plot_series([wild]).axes[0].get_ylim())) > 1e6


def test_constant_series_and_single_points_can_be_drawn() -> None:
    still = plots.SeriesPanel([0.0], [[1.0, 1.0]], [0.0], [[1.0, 1.0]])
    render(plots.plot_series([still], split=0.0))
    render(plots.plot_plane_series([still]))


# --- in the plane -----------------------------------------------------------------------------


def test_models_have_a_row_each_and_both_coordinates_one_scale() -> None:
    figure = plots.plot_plane_series({"RNN": [full()] * 3, "latent ODE": [full()] * 3}, split=1.0)
    figure.canvas.draw()
    assert len(figure.axes) == 6
    assert [axes.get_ylabel() for axes in figure.axes] == ["RNN", "", "", "latent ODE", "", ""]
    assert [axes.get_title() for axes in figure.axes] == ["series"] * 3 + [""] * 3
    assert len({(*axes.get_xlim(), *axes.get_ylim()) for axes in figure.axes}) == 1
    axes = figure.axes[0]
    zero, one = axes.transData.transform([(0, 0), (1, 1)])
    assert one[0] - zero[0] == pytest.approx(one[1] - zero[1], rel=1e-3)
    (beyond,) = paths(axes, "--")
    np.testing.assert_allclose(beyond, full().mean[10:])
    start, seen, hidden = dots(axes)
    np.testing.assert_allclose(start, full().mean[:1])
    np.testing.assert_allclose(seen, full().observed)
    np.testing.assert_allclose(hidden, full().held_out)
    assert "start" in legend(figure)


def test_a_plane_shows_an_extrapolation_whole_unless_it_runs_away() -> None:
    (axes,) = plots.plot_plane_series([panel()], split=1.2).axes
    assert axes.get_xlim()[1] > 2.0
    wild = panel(mean=torch.where(TIMES[:, None] > 1.25, 1e6, panel().mean))
    (axes,) = plots.plot_plane_series([wild], split=1.2).axes
    assert axes.get_xlim()[1] < 4.0
    # The truth reaches as far as is of interest.
    (axes,) = plots.plot_plane_series([replace(wild, truth=panel().mean)], split=1.2).axes
    assert 2.0 < axes.get_xlim()[1] < 2.2


def test_a_point_without_one_of_its_coordinates_is_left_out() -> None:
    observed = torch.tensor([[1.0, 2.0], [NAN, 3.0], [4.0, NAN]])
    figure = plots.plot_plane_series([panel(rows=3, observed=observed)])
    _, seen = dots(figure.axes[0])
    np.testing.assert_allclose(seen, [[1.0, 2.0]])


# --- latent space -----------------------------------------------------------------------------


def test_the_components_are_those_of_the_greatest_variance() -> None:
    corners = np.array([[4.0, 0, 0, 1], [-4, 0, 0, 1], [0, 0, 2, 1], [0, 0, -2, 1]])
    figure = plots.plot_latent_space(corners, [0, 1, 0, -1], ["left", "right"])
    (axes,) = figure.axes
    assert axes.get_xlabel() == "first component (80 % of the variance)"
    assert axes.get_ylabel() == "second component (20 %)"
    assert legend(figure) == ["unknown", "left", "right"]
    drawn = {
        c.get_label(): np.asarray(c.get_offsets())
        for c in axes.collections
        if isinstance(c, PathCollection)
    }
    np.testing.assert_allclose(drawn["left"], [[4, 0], [0, 2]], atol=1e-12)
    np.testing.assert_allclose(drawn["right"], [[-4, 0]], atol=1e-12)
    np.testing.assert_allclose(drawn["unknown"], [[0, -2]], atol=1e-12)


def test_the_largest_class_is_drawn_first() -> None:
    figure = plots.plot_latent_space(torch.randn(10, 3), [0] + [1] * 9)
    assert [c.get_label() for c in figure.axes[0].collections] == ["class 1", "class 0"]
    assert legend(figure) == ["class 0", "class 1"]


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 1), (2, 2), (5, 2)])
def test_few_or_equal_points_can_be_drawn(shape: tuple[int, int]) -> None:
    figure = plots.plot_latent_space(torch.zeros(shape))
    assert figure.legends == []
    render(figure)


def test_a_traversal_has_a_row_for_each_direction() -> None:
    states = torch.randn(2, 3, 9, 2)
    figure = plots.plot_traversal(states, [-1.5, 0, 2], ["a", "b"])
    *cells, bar = figure.axes
    assert len(cells) == 6
    assert [axes.get_title() for axes in cells[:3]] == ["\N{MINUS SIGN}1.5 sd", "0 sd", "+2 sd"]
    assert [cells[0].get_ylabel(), cells[3].get_ylabel()] == ["a", "b"]
    (lines,) = [c for c in cells[5].collections if isinstance(c, LineCollection)]
    np.testing.assert_allclose([part[0] for part in lines.get_segments()], states[1, 2, :-1])
    np.testing.assert_allclose(dots(cells[5])[0], states[1, 2, :1])
    assert [label.get_text() for label in bar.get_yticklabels()] == ["start", "end"]


def test_a_traversal_over_time_has_a_line_for_each_step() -> None:
    states = torch.randn(5, 3, 9)
    figure = plots.plot_series_traversal(states, range(9), [-2, 0, 2], feature="HR", xlabel="hours")
    cells = figure.axes[:5]
    for axes, lines in zip(cells, states, strict=True):
        drawn = [line.get_ydata() for line in axes.lines]
        np.testing.assert_allclose(drawn, lines)
    assert [axes.get_ylabel() for axes in cells] == ["HR", "", "", "HR", ""]
    assert len({axes.get_ylim() for axes in cells}) == 1


# --- events -----------------------------------------------------------------------------------


def test_events_stand_below_the_intensity() -> None:
    rates, truth = torch.rand(2, 21) + 1, torch.rand(2, 21)
    events = [torch.tensor([0.5, 1.5, 1.6]), torch.zeros(0)]
    figure = plots.plot_intensity(TIMES, rates, events, truth, ["first", "second"])
    first, second = figure.axes
    model, known = first.lines
    np.testing.assert_allclose(model.get_ydata(), rates[0])
    np.testing.assert_allclose(known.get_ydata(), truth[0])
    assert (model.get_linestyle(), known.get_linestyle()) == ("-", "--")
    (marks,) = [c for c in first.collections if isinstance(c, LineCollection)]
    ends = np.asarray(marks.get_segments())
    np.testing.assert_allclose(ends[:, :, 0], np.stack([events[0]] * 2, 1))
    assert (ends[:, :, 1] < 0).all()
    assert len(second.collections[0].get_segments()) == 0
    assert min(first.get_yticks()) >= 0
    assert first.get_ylim() == second.get_ylim()
    assert legend(figure) == ["model", "truth", "events"]
    assert legend(plots.plot_intensity(TIMES, 0 * rates, events)) == ["model", "events"]


# --- bad input --------------------------------------------------------------------------------

WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "no series": (lambda: plots.plot_series([]), "`panels`: given no series"),
    "no feature": (lambda: plots.plot_series([panel()], limit=0), "`limit`"),
    "names": (lambda: plots.plot_series([panel()], ["x"]), "`features`"),
    "falling": (lambda: plots.plot_series([panel(times=-TIMES)]), r"panels\[0\]\.times"),
    "mean": (lambda: plots.plot_series([panel(times=TIMES[1:])]), r"panels\[0\]\.mean"),
    "NaN": (lambda: plots.plot_series([panel(mean=NAN * full().mean)]), r"panels\[0\]\.mean"),
    "rows": (
        lambda: plots.plot_series([panel(times_observed=[0.5])]),
        r"panels\[0\]\.observed",
    ),
    "infinite": (
        lambda: plots.plot_series([panel(observed=torch.full((5, 2), math.inf))]),
        r"panels\[0\]\.observed",
    ),
    "one end": (lambda: plots.plot_series([panel(lower=full().lower)]), "both or neither"),
    "hidden": (lambda: plots.plot_series([panel(held_out=full().held_out)]), "both or neither"),
    "truth": (lambda: plots.plot_series([panel(truth=TIMES[:, None])]), r"panels\[0\]\.truth"),
    "uneven": (lambda: plots.plot_series([panel(2), panel(3)]), r"panels\[1\]\.mean"),
    "space": (lambda: plots.plot_plane_series([panel(3)]), "3 features"),
    "no models": (lambda: plots.plot_plane_series({}), "no models"),
    "uneven models": (
        lambda: plots.plot_plane_series({"a": [panel()], "b": [panel()] * 2}),
        r"models\['a'\]",
    ),
    "flat means": (lambda: plots.plot_latent_space(torch.randn(9)), "`means`"),
    "labels": (lambda: plots.plot_latent_space(torch.randn(9, 2), [0, 1]), "`labels`"),
    "half a class": (lambda: plots.plot_latent_space(torch.randn(1, 2), [0.5]), "`labels`"),
    "too few names": (lambda: plots.plot_latent_space(torch.randn(1, 2), [2], ["a"]), "`names`"),
    "paths in space": (lambda: plots.plot_traversal(torch.randn(1, 3, 9, 3), range(3)), "`paths`"),
    "offsets": (lambda: plots.plot_traversal(torch.randn(1, 3, 9, 2), range(4)), "`offsets`"),
    "times": (
        lambda: plots.plot_series_traversal(torch.randn(1, 3, 9), range(8), range(3)),
        "`paths`",
    ),
    "log rates": (lambda: plots.plot_intensity(TIMES, -torch.ones(1, 21), [[]]), "never negative"),
    "few events": (lambda: plots.plot_intensity(TIMES, torch.ones(2, 21), [[]]), "`events`"),
    "event names": (
        lambda: plots.plot_intensity(TIMES, torch.ones(1, 21), [[]], names="ab"),
        "`names`",
    ),
    "NaN event": (
        lambda: plots.plot_intensity(TIMES, torch.ones(1, 21), [[NAN]]),
        r"events\[0\]",
    ),
    "true rates": (
        lambda: plots.plot_intensity(TIMES, torch.ones(1, 21), [[]], torch.ones(2, 21)),
        "`truth`",
    ),
    "logits": (lambda: plots.plot_classification([[-3.0, 4.0]], [1]), "Take `softmax`"),
    "one class": (lambda: plots.plot_classification([[1.0]], [0]), "`probabilities`"),
    "no class": (lambda: plots.plot_classification([0.2, 0.3], [0, 2]), "`labels`"),
    "class names": (lambda: plots.plot_classification([0.2, 0.3], [0, 1], ["a"]), "`names`"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_refused_by_name(name: str) -> None:
    call, message = WRONG[name]
    with pytest.raises(ic.InputError, match=message):
        call()


def test_wrong_types_are_refused() -> None:
    with pytest.raises(ic.InputError, match="a SeriesPanel"):
        plots.plot_series([(1, 2, 3)])
    with pytest.raises(ic.errors.InputTypeError):
        plots.plot_latent_space("circles")
