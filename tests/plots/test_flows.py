"""Figures of flows: the right panels, the right way up, and bad input refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from PIL import Image

import isocline as ic
from isocline import plots

BOUNDS = (-3.0, 3.0, -2.0, 4.0)
BUMP = (1.5, -1.0)


def bump(x: float = BUMP[0], y: float = BUMP[1], width: float = 0.3) -> torch.Tensor:
    """The density of a Gaussian on an oblong grid, whose shape a mistaken transpose changes."""
    grid = plots.grid_points(BOUNDS, (60, 90))
    squares = (grid - torch.tensor([x, y])).square().sum(-1) / width**2
    return torch.exp(-squares / 2) / (2 * math.pi * width**2)


def cloud(n: int = 200) -> torch.Tensor:
    return torch.randn(n, 2)


def frames(count: int = 6) -> list[plots.FlowFrame]:
    moments = [index / max(1, count - 1) for index in range(count)]
    return [plots.FlowFrame(t, bump(width=1.5 - t), cloud() * (1.5 - t)) for t in moments]


def match(sizes: tuple[int, ...] = (2, 8, 32), **losses: Any) -> plots.DensityMatch:
    flows = {size: bump(width=0.3 + 1 / size) for size in sizes}
    return plots.DensityMatch("potential 1", 7 * bump(), cnf=flows, nf=flows, **losses)


def render(figure: Figure, dpi: int = 60) -> Image.Image:
    with BytesIO() as file:
        figure.savefig(file, format="png", dpi=dpi)
        return Image.open(file).convert("RGB")


def offsets(axes: Axes) -> list[np.ndarray]:
    return [np.asarray(c.get_offsets()) for c in axes.collections if isinstance(c, PathCollection)]


FIGURES: dict[str, Callable[[], Figure]] = {
    "samples": lambda: plots.plot_samples(cloud(), cloud(), BOUNDS, title="title"),
    "density": lambda: plots.plot_density(bump(), BOUNDS, cloud(), title="title"),
    "trajectories": lambda: plots.plot_trajectories(torch.randn(9, 20, 2), BOUNDS, title="title"),
    "sequence": lambda: plots.plot_sequence(frames(), cloud(), BOUNDS, title="title"),
    "matching": lambda: plots.plot_density_matching([match()], BOUNDS, title="title"),
    "pairs": lambda: plots.plot_pairs(torch.randn(99, 3), torch.randn(80, 3), title="title"),
    "likelihood": lambda: plots.plot_likelihood([{"step": 1.0, "nfe_forward": 20.0}], -2.0),
    "divergence": lambda: plots.plot_divergence([{"step": 1.0, "validation_kl": 0.2}]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_without_warnings_and_without_global_state(name: str) -> None:
    before = dict(plt.rcParams)
    assert render(FIGURES[name]()).width > 100
    assert plt.get_fignums() == []
    assert dict(plt.rcParams) == before


@pytest.mark.parametrize("name", ["samples", "density", "trajectories", "sequence", "matching"])
def test_both_coordinates_have_the_same_scale(name: str) -> None:
    figure = FIGURES[name]()
    render(figure)
    panels = [axes for axes in figure.axes if axes.images or offsets(axes)]
    for axes in panels:
        assert (*axes.get_xlim(), *axes.get_ylim()) == BOUNDS
        corners = axes.transData.transform([BOUNDS[::2], BOUNDS[1::2]])
        width, height = corners[1] - corners[0]
        assert width == pytest.approx(height, rel=1e-3)  # the bounds are a square


# --- orientation --------------------------------------------------------------------------------


def test_the_grid_is_laid_out_as_images_are() -> None:
    grid = plots.grid_points(BOUNDS, (60, 90))
    assert grid.shape == (60, 90, 2)
    assert grid.dtype == torch.get_default_dtype()
    # Centres of pixels: half a pixel within the bounds; x along columns, y up the rows.
    torch.testing.assert_close(grid[0, 0], torch.tensor([-3 + 3 / 90, -2 + 3 / 60]))
    torch.testing.assert_close(grid[-1, 0], torch.tensor([-3 + 3 / 90, 4 - 3 / 60]))
    torch.testing.assert_close(grid[0, -1], torch.tensor([3 - 3 / 90, -2 + 3 / 60]))
    assert plots.grid_points(BOUNDS, 7).shape == (7, 7, 2)


def drawn_peak(figure: Figure, axes: Axes) -> tuple[float, float]:
    """Where in the picture, in data coordinates, the colours are at the top of their scale."""
    dpi = 60
    pixels = np.asarray(render(figure, dpi)).astype(float)
    # Yellow is what viridis ends with, and nothing else in a bare panel is yellow.
    rows, columns = np.nonzero((pixels[..., 0] > 180) & (pixels[..., 2] < 100))
    # Pillow counts rows from the top, matplotlib from the bottom; the figure's own dpi is another.
    points = np.stack([columns + 0.5, pixels.shape[0] - rows - 0.5], axis=1) * figure.dpi / dpi
    inside = axes.bbox.get_points()
    points = points[np.all((points > inside[0]) & (points < inside[1]), axis=1)]
    x, y = axes.transData.inverted().transform(points).mean(axis=0)
    return x, y


@pytest.mark.parametrize("name", ["density", "sequence", "matching"])
def test_a_bump_appears_where_it_is(name: str) -> None:
    figure = {
        "density": lambda: plots.plot_density(bump(), BOUNDS),
        "sequence": lambda: plots.plot_sequence([(1.0, bump(), cloud())], cloud(), BOUNDS),
        "matching": lambda: plots.plot_density_matching([match()], BOUNDS),
    }[name]()
    axes = figure.axes[0]
    (image,) = axes.images
    array = np.asarray(image.get_array())
    assert image.origin == "lower"
    assert tuple(image.get_extent()) == BOUNDS
    row, column = np.unravel_index(array.argmax(), array.shape)
    assert -3 + 6 * (column + 0.5) / 90 == pytest.approx(BUMP[0], abs=0.06)
    assert -2 + 6 * (row + 0.5) / 60 == pytest.approx(BUMP[1], abs=0.06)
    assert drawn_peak(figure, axes) == pytest.approx(BUMP, abs=0.15)


# --- one flow ----------------------------------------------------------------------------------


def test_samples_have_two_panels_and_say_what_is_left_out() -> None:
    stray = cloud(100) * 0.1
    stray[:4] = 50.0
    data = cloud(100) * 0.1
    figure = plots.plot_samples(data.double(), stray.numpy(), BOUNDS)
    assert [axes.get_title() for axes in figure.axes] == ["data", "samples (4 % outside)"]
    np.testing.assert_allclose(offsets(figure.axes[0])[0], data)
    np.testing.assert_allclose(offsets(figure.axes[1])[0], stray)


def test_a_density_has_a_scale_and_its_spike_does_not_darken_the_rest() -> None:
    density = bump(width=1.0)
    density[3, 3] = 100.0 * density.max()
    figure = plots.plot_density(density, BOUNDS)
    axes, bar = figure.axes
    assert bar.get_ylabel() == "density"
    assert axes.images[0].get_clim() == (0.0, pytest.approx(100 * bump(width=1.0).max()))
    density[3, 3] = bump(width=1.0).max() * 2  # less than 2 % of the mass: clipped
    (image,) = plots.plot_density(density, BOUNDS).axes[0].images
    assert image.get_clim()[1] == pytest.approx(float(bump(width=1.0).max()), rel=0.05)


def test_a_density_of_zero_can_be_drawn() -> None:
    render(plots.plot_density(torch.zeros(5, 5), BOUNDS))


def test_data_lie_over_the_density() -> None:
    data = cloud(50)
    figure = plots.plot_density(bump(), BOUNDS, data)
    np.testing.assert_allclose(offsets(figure.axes[0])[0], data)


def test_trajectories_go_from_the_first_state_to_the_last() -> None:
    paths = torch.randn(9, 20, 2, requires_grad=True)
    (axes,) = plots.plot_trajectories(paths, BOUNDS, limit=12).axes
    start, end = offsets(axes)
    np.testing.assert_allclose(start, paths[0, :12].detach())
    np.testing.assert_allclose(end, paths[-1, :12].detach())
    (lines,) = [c for c in axes.collections if isinstance(c, LineCollection)]
    assert len(lines.get_segments()) == 12
    np.testing.assert_allclose(lines.get_segments()[5], paths[:, 5].detach())
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["base", "data"]


def test_likelihood_and_evaluations_over_iterations() -> None:
    rows = [
        {"step": 100.0, "validation_log_likelihood": -3.0, "nfe_forward": 20.0},
        {"step": 200.0, "nfe_forward": 26.0, "nfe_backward": 30.0},
        {"step": 300.0, "validation_log_likelihood": -2.5},
    ]
    score, work = plots.plot_likelihood(rows, truth=-2.4).axes
    held_out, truth = score.lines
    np.testing.assert_allclose(held_out.get_xydata(), [[100, -3.0], [300, -2.5]])
    assert held_out.get_label() == "held out"
    assert set(truth.get_ydata()) == {-2.4}
    forward, backward = work.lines
    np.testing.assert_allclose(forward.get_xydata(), [[100, 20], [200, 26]])
    np.testing.assert_allclose(backward.get_xydata(), [[200, 30]])
    score, _ = plots.plot_likelihood(rows).axes
    assert len(score.lines) == 1
    render(plots.plot_likelihood([]))


def test_divergence_over_iterations() -> None:
    rows = [{"step": 100.0, "train_loss": 0.5, "validation_kl": 0.4, "validation_nfe": 30.0}]
    score, work = plots.plot_divergence(rows).axes
    training, held_out, least = score.lines
    np.testing.assert_allclose(training.get_xydata(), [[100, 0.5]])
    np.testing.assert_allclose(held_out.get_xydata(), [[100, 0.4]])
    assert set(least.get_ydata()) == {0.0}
    assert [line.get_label() for line in work.lines] == ["held out"]


# --- figures 4 and 5 of the paper --------------------------------------------------------------


def test_a_sequence_has_a_panel_for_each_moment_and_the_target_beside_them() -> None:
    data = cloud(30)
    discrete = [(f"K = {k}", bump(width=0.2), cloud()) for k in (2, 4, 8, 16, 24, 32)]
    figure = plots.plot_sequence({"CNF": frames(), "NF": discrete}, data, BOUNDS)
    panels = [axes for axes in figure.axes if axes.axison]  # the cells of the scales are off
    upper, lower, below = panels[:6], panels[6:13], panels[13:19]
    assert len(panels) == 4 * 6 + 2
    assert [axes.get_title() for axes in upper] == ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]
    assert below[2].get_title() == "K = 8"
    assert upper[0].get_ylabel() == "CNF\ndensity"
    assert lower[0].get_ylabel() == "CNF\nsamples"
    assert lower[-1].get_ylabel() == "target"
    np.testing.assert_allclose(offsets(lower[-1])[0], data)
    # One scale in a row, its own for each model.
    limits = [{axes.images[0].get_clim() for axes in row} for row in (upper, below)]
    assert [len(row) for row in limits] == [1, 1]
    assert limits[0] != limits[1]


def test_density_matching_has_a_row_for_each_target() -> None:
    losses = {"cnf_loss": {2: 1.0, 8: 0.5, 32: 0.1}, "nf_loss": {2: 2.0, 32: 1.0}}
    rows = [match(**losses, least_loss=-0.3), match()]
    figure = plots.plot_density_matching(rows, BOUNDS)
    render(figure)
    assert len(figure.axes) == 2 * 8
    assert [axes.get_title() for axes in figure.axes[:8]] == [
        "target",
        *(f"CNF, M = {m}" for m in (2, 8, 32)),
        *(f"NF, K = {k}" for k in (2, 8, 32)),
        "loss",
    ]
    assert len({axes.images[0].get_clim() for axes in figure.axes[:7]}) == 1
    cnf, nf, least = figure.axes[7].lines
    np.testing.assert_allclose(cnf.get_xydata(), [[2, 1.0], [8, 0.5], [32, 0.1]])
    np.testing.assert_allclose(nf.get_xydata(), [[2, 2.0], [32, 1.0]])
    assert set(least.get_ydata()) == {-0.3}
    # The target, given seven times too large, is normalised: 36 is the area of the bounds.
    target = np.asarray(figure.axes[0].images[0].get_array())
    assert target.mean() * 36 == pytest.approx(1.0)


# --- tables ------------------------------------------------------------------------------------


def test_pairs_are_a_corner_of_the_first_columns() -> None:
    data, samples = torch.randn(400, 8), torch.randn(300, 8)
    names = [f"feature {index}" for index in range(8)]
    figure = plots.plot_pairs(data, samples, names, limit=4)
    assert len(figure.axes) == 4 + 6
    assert [axes.get_xlabel() for axes in figure.axes[-4:]] == names[:4]
    assert len(plots.plot_pairs(data, samples).axes) == 6 + 15
    pairs = [axes for axes in figure.axes if axes.collections]
    assert len(pairs) == 6
    for axes in pairs:
        filled, lines = (c for c in axes.collections if isinstance(c, ContourSet))
        assert (filled.filled, lines.filled) == (True, False)


def test_a_pair_has_the_row_as_its_height() -> None:
    points = torch.stack([5 + 0.1 * torch.randn(500), -2 + 0.1 * torch.randn(500)], dim=1)
    figure = plots.plot_pairs(points, points)
    pair = figure.axes[1]
    filled = pair.collections[0]
    centre = np.concatenate([path.vertices for path in filled.get_paths()]).mean(axis=0)
    np.testing.assert_allclose(centre, [5, -2], atol=0.1)


@pytest.mark.parametrize(
    ("data", "samples"),
    [
        (torch.zeros(5, 3), torch.zeros(4, 3)),
        (torch.randn(50, 2), torch.randn(50, 2) + 100),
        (torch.randn(1, 2), torch.randn(1, 2)),
        (torch.arange(40).remainder(3).reshape(20, 2), torch.randn(20, 2)),
        (torch.randn(50, 1), torch.randn(50, 1)),
    ],
    ids=["constant", "samples out of sight", "one point", "integers", "one column"],
)
def test_odd_tables_can_be_drawn(data: torch.Tensor, samples: torch.Tensor) -> None:
    render(plots.plot_pairs(data, samples))


# --- bad input ---------------------------------------------------------------------------------

WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "three coordinates": (lambda: plots.plot_samples(torch.randn(9, 3), cloud(), BOUNDS), "`data`"),
    "no samples": (lambda: plots.plot_samples(cloud(), torch.empty(0, 2), BOUNDS), "`samples`"),
    "flat samples": (lambda: plots.plot_samples(cloud(), torch.randn(9), BOUNDS), "`samples`"),
    "NaN": (lambda: plots.plot_samples(cloud() * math.nan, cloud(), BOUNDS), "400 values that"),
    "bounds the wrong way round": (
        lambda: plots.plot_samples(cloud(), cloud(), (3, -3, -2, 4)),
        "`bounds`",
    ),
    "infinite bounds": (lambda: plots.grid_points((0, math.inf, 0, 1)), "`bounds`"),
    "no pixels": (lambda: plots.grid_points(BOUNDS, (0, 3)), "`size`"),
    "log density": (lambda: plots.plot_density(bump(width=2.0).log(), BOUNDS), "Take `exp`"),
    "density of three axes": (lambda: plots.plot_density(bump()[None], BOUNDS), "`density`"),
    "one time": (lambda: plots.plot_trajectories(torch.randn(1, 9, 2), BOUNDS), "`paths`"),
    "no particles": (lambda: plots.plot_trajectories(torch.randn(2, 9, 2), BOUNDS, 0), "`limit`"),
    "no frames": (lambda: plots.plot_sequence([], cloud(), BOUNDS), "no frames"),
    "no models": (lambda: plots.plot_sequence({}, cloud(), BOUNDS), "no models"),
    "uneven models": (
        lambda: plots.plot_sequence({"CNF": frames(3), "NF": frames(2)}, cloud(), BOUNDS),
        "'NF'",
    ),
    "a layer as a time": (
        lambda: plots.plot_sequence([(8, bump(), cloud())], cloud(), BOUNDS),
        "as a text",
    ),
    "a bad frame": (
        lambda: plots.plot_sequence(
            [(0.5, bump(), cloud()), (1.0, bump(), bump())], cloud(), BOUNDS
        ),
        r"models\[''\]\[1\]\.samples",
    ),
    "no targets": (lambda: plots.plot_density_matching([], BOUNDS), "`rows`"),
    "uneven sizes": (
        lambda: plots.plot_density_matching([match(), match((2, 8))], BOUNDS),
        r"rows\[1\]\.cnf",
    ),
    "an empty target": (
        lambda: plots.plot_density_matching(
            [plots.DensityMatch("none", torch.zeros(3, 3), {}, {})], BOUNDS
        ),
        "zero everywhere",
    ),
    "tables of two widths": (
        lambda: plots.plot_pairs(torch.randn(9, 3), torch.randn(9, 4)),
        "`samples`",
    ),
    "too few names": (
        lambda: plots.plot_pairs(torch.randn(9, 3), torch.randn(9, 3), ["a"]),
        "`columns`",
    ),
    "no columns": (
        lambda: plots.plot_pairs(torch.randn(9, 3), torch.randn(9, 3), limit=0),
        "`limit`",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_refused_by_name(name: str) -> None:
    call, message = WRONG[name]
    with pytest.raises(ic.InputError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: plots.plot_samples("circles", cloud(), BOUNDS),
        lambda: plots.plot_samples([[1.0, 2.0], [3.0]], cloud(), BOUNDS),
        lambda: plots.plot_samples(cloud() + 1j, cloud(), BOUNDS),
        lambda: plots.plot_samples(cloud(), cloud(), 3.0),
        lambda: plots.plot_sequence([(0.5, bump())], cloud(), BOUNDS),
    ],
    ids=["text", "ragged", "complex", "bounds", "frame"],
)
def test_wrong_types_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ic.InputTypeError):
        call()
