"""Figure 3 of the paper: what a trained ODE-Net does as its tolerance changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PathCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from .style import COLORS, new_figure, style
from .training import draw_nfe_over_training

__all__ = ["plot_figure3"]

Rows = Sequence[Mapping[str, float]]


def plot_figure3(points: Rows, history: Rows, title: str = "") -> Figure:
    """Draw the four panels of Figure 3 (Chen et al. 2018).

    (a) numerical error of the solve, and the test error, against forward evaluations; (b) time
    against forward evaluations; (c) backward against forward evaluations; (d) evaluations over
    training. The colour of a point is its tolerance.

    Args:
        points: One mapping for each tolerance: ``tolerance``, ``nfe_forward``, ``nfe_backward``,
            ``nfe_backsolve``, ``numerical_error`` (relative), ``test_error`` (per cent),
            ``seconds_forward``.
        history: One mapping for each epoch, as in `plot_nfe`.
        title: Title of the figure.
    """
    with style():
        figure, (error, time, backward, training) = new_figure(2, 2, width=5.0, height=3.6)
        tolerances = [point["tolerance"] for point in points]
        norm = LogNorm(min(tolerances), max(*tolerances, 1.01 * min(tolerances)))

        _scatter(error, points, "numerical_error", norm)
        error.set_yscale("log")
        error.set(
            xlabel="forward evaluations", ylabel="numerical error (relative)", title="(a) accuracy"
        )
        _draw_test_error(error, points)

        _scatter(time, points, "seconds_forward", norm, scale=1e3)
        time.set_ylim(bottom=0)
        time.set(xlabel="forward evaluations", ylabel="time per batch (ms)", title="(b) time")

        _scatter(backward, points, "nfe_backsolve", norm, label="backsolve")
        _scatter(backward, points, "nfe_backward", norm, marker="x", label="adjoint in use")
        largest = max(point["nfe_forward"] for point in points)
        backward.plot([0, largest], [0, largest], color="0.6", linewidth=1, label="as many")
        backward.plot([0, largest], [0, largest / 2], ":", color="0.6", label="half as many")
        backward.set_ylim(bottom=0)
        backward.set(
            xlabel="forward evaluations", ylabel="backward evaluations", title="(c) backward pass"
        )
        for handle in backward.legend().legend_handles:
            # The colours stand for tolerances, so that the legend's have to be none.
            if isinstance(handle, PathCollection):
                handle.set(array=None, facecolor="0.4", edgecolor="0.4")

        draw_nfe_over_training(training, history)
        training.set_title("(d) training")

        bar = figure.colorbar(
            ScalarMappable(norm, "viridis"), ax=[error, time, backward, training], label="tolerance"
        )
        bar.ax.yaxis.set_major_locator(LogLocator())
        if title:
            figure.suptitle(title)
    return figure


def _scatter(
    axes: Axes, points: Rows, name: str, norm: LogNorm, scale: float = 1.0, **look: Any
) -> PathCollection:
    x = [point["nfe_forward"] for point in points]
    y = [scale * point[name] for point in points]
    axes.plot(x, y, color="0.7", linewidth=1, zorder=1)
    axes.set_xlim(0, 1.08 * max(x))
    return axes.scatter(
        x,
        y,
        c=[point["tolerance"] for point in points],
        norm=norm,
        cmap="viridis",
        zorder=2,
        **look,
    )


def _draw_test_error(axes: Axes, points: Rows) -> None:
    second = axes.twinx()
    second.plot(
        [point["nfe_forward"] for point in points],
        [point["test_error"] for point in points],
        "--s",
        color=COLORS[1],
        markersize=3,
        linewidth=1,
    )
    second.set_ylim(bottom=0)
    second.set_ylabel("test error (%), dashed", color=COLORS[1])
    second.tick_params(axis="y", colors=COLORS[1])
    second.grid(visible=False)
    second.spines["right"].set_visible(True)
