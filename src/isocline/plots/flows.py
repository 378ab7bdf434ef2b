"""Figures of a flow in the plane, and of its training."""

from __future__ import annotations

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from ..errors import InputError
from .flow_panels import (
    Array,
    Bounds,
    Values,
    check_bounds,
    check_density,
    check_points,
    check_values,
    colour_limit,
    draw_density,
    draw_points,
    height_over_width,
)
from .style import COLORS, new_figure, style
from .training import Rows, plot_progress

__all__ = [
    "plot_density",
    "plot_divergence",
    "plot_likelihood",
    "plot_samples",
    "plot_trajectories",
]


def plot_samples(data: Values, samples: Values, bounds: Bounds, title: str = "") -> Figure:
    """Draw data and samples of a model side by side.

    Points rather than a histogram: at ten thousand of them a histogram is mostly counting noise,
    and the stray points between two modes, by which a flow gives itself away, drown in it. Points
    beyond the bounds are counted in the panel's title.

    Args:
        data: (n, 2).
        samples: (m, 2).
        bounds: Left, right, bottom, top.
        title: Title of the figure.

    Raises:
        InputError: If a shape is wrong, or a value NaN or infinite.
    """
    bounds = check_bounds(bounds)
    clouds = (check_points("data", data), check_points("samples", samples))
    with style():
        figure, panels = new_figure(1, 2, width=3.4, height=3.1 * height_over_width(bounds) + 0.7)
        figure.set_layout_engine("compressed")
        for axes, name, points, color in zip(
            panels, ("data", "samples"), clouds, COLORS, strict=False
        ):
            draw_points(axes, points, bounds, color=color)
            outside = _share_outside(points, bounds)
            axes.set_title(f"{name} ({100 * outside:.2g} % outside)" if outside else name)
        figure.suptitle(title)
    return figure


def plot_density(
    density: Values, bounds: Bounds, data: Values | None = None, title: str = ""
) -> Figure:
    """Draw a density as an image with its scale.

    Args:
        density: (H, W): row 0 the lowest, column 0 the leftmost, at the points of `grid_points`.
        bounds: Left, right, bottom, top of the image.
        data: Points to draw over it, (n, 2).
        title: Title of the figure.

    Raises:
        InputError: If a shape is wrong, a value NaN or infinite, or a density negative.
    """
    bounds = check_bounds(bounds)
    grid = check_density("density", density)
    points = None if data is None else check_points("data", data)
    with style():
        figure, (axes,) = new_figure(width=4.8, height=3.7 * height_over_width(bounds) + 0.3)
        limit = colour_limit([grid])
        image = draw_density(axes, grid, bounds, limit)
        if points is not None:
            draw_points(axes, points, bounds, color="white", s=1.5, alpha=0.4)
        extend = "max" if grid.max() > limit else "neither"
        figure.colorbar(image, ax=axes, label="density", extend=extend).ax.grid(visible=False)
        # The plain layout gives the bar the height of the figure rather than that of the image.
        figure.set_layout_engine("compressed")
        axes.set_title(title)
    return figure


def plot_trajectories(paths: Values, bounds: Bounds, limit: int = 300, title: str = "") -> Figure:
    """Draw the ways of particles from the base to the data.

    Args:
        paths: (T, n, 2): the states at T times, as `CNF.trajectory` gives them.
        bounds: Left, right, bottom, top.
        limit: Draws the first of the particles, at most so many: the lines of more hide each other.
        title: Title of the figure.

    Raises:
        InputError: If a shape is wrong, or a value NaN or infinite.
    """
    bounds = check_bounds(bounds)
    states = check_values("paths", paths, 3)
    if states.shape[2] != 2 or states.shape[0] < 2:
        raise InputError("paths", f"shape {states.shape}", "(T, n, 2) with two times at least")
    if limit < 1:
        raise InputError("limit", str(limit), "at least one particle")
    states = states[:, :limit]
    with style():
        height = 3.9 * height_over_width(bounds)
        figure, (axes,) = new_figure(width=4.2, height=height + 0.8)
        # The plain layout cuts off the title of a panel that keeps to its own shape.
        figure.set_layout_engine("compressed")
        axes.add_collection(
            LineCollection(
                list(states.transpose(1, 0, 2)), colors="0.45", linewidths=0.6, alpha=0.45, zorder=1
            )
        )
        for points, name, color in (
            (states[0], "base", COLORS[0]),
            (states[-1], "data", COLORS[1]),
        ):
            draw_points(axes, points, bounds, s=9, alpha=0.9, zorder=2, color=color, label=name)
        # Beneath the panel, for there is no telling which of its corners the particles leave free.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.26 / height), ncols=2)
        axes.set_title(title)
    return figure


def plot_likelihood(rows: Rows, truth: float | None = None, title: str = "") -> Figure:
    """Draw the log-likelihood and the evaluations of the field against iterations.

    Args:
        rows: Mappings with ``step`` (iterations done) and, as far as they were measured then,
            ``train_log_likelihood`` and ``validation_log_likelihood`` (nats per sample, mean),
            ``nfe_forward``, ``nfe_backward`` and ``validation_nfe`` (per solve).
        truth: The score of the true density on the held-out data, which no model can be expected
            to exceed; None where it is not known.
        title: Title of the figure.
    """
    series = (("train_log_likelihood", "training"), ("validation_log_likelihood", "held out"))
    return plot_progress(rows, series, "log-likelihood (nats)", truth, "true density", title)


def plot_divergence(rows: Rows, title: str = "") -> Figure:
    """Draw the divergence from a target, and the evaluations of the field, against iterations.

    Args:
        rows: Mappings as for `plot_likelihood`, with ``train_loss`` and ``validation_kl`` (nats, as
            estimated by samples: it may fall below zero by chance) in the place of likelihoods.
        title: Title of the figure.
    """
    series = (("train_loss", "training"), ("validation_kl", "held out"))
    return plot_progress(rows, series, "KL(flow || target) (nats)", 0.0, "least", title)


def _share_outside(points: Array, bounds: Bounds) -> float:
    left, right, bottom, top = bounds
    x, y = points.T
    return 1.0 - float(np.mean((left <= x) & (x <= right) & (bottom <= y) & (y <= top)))
