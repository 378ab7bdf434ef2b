"""Figures of a training run: error and evaluations per epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import new_figure, style

__all__ = ["draw_nfe_over_training", "plot_error", "plot_nfe"]

Rows = Sequence[Mapping[str, float]]


def plot_error(rows: Rows, title: str = "") -> Figure:
    """Draw training and validation error per epoch.

    Args:
        rows: One mapping for each epoch, with ``epoch`` and, in per cent, ``train_error`` and
            ``validation_error``.
        title: Title of the figure.
    """
    with style():
        figure, (axes,) = new_figure()
        for name, label in (("train_error", "training"), ("validation_error", "validation")):
            _draw(axes, rows, name, label)
        positive = [
            row[name]
            for row in rows
            for name in ("train_error", "validation_error")
            if row.get(name, 0.0) > 0
        ]
        if positive and max(positive) > 20 * min(positive):
            # Linear below the smallest error that occurs, for an error may be zero.
            axes.set_yscale("symlog", linthresh=min(positive))
        axes.set_ylim(bottom=0)
        axes.set(xlabel="epoch", ylabel="error (%)", title=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    return figure


def plot_nfe(rows: Rows, title: str = "") -> Figure:
    """Draw the evaluations of the field per iteration, forward and backward.

    Args:
        rows: One mapping for each epoch, with ``epoch``, ``nfe_forward`` and ``nfe_backward``.
        title: Title of the figure.
    """
    with style():
        figure, (axes,) = new_figure()
        draw_nfe_over_training(axes, rows)
        axes.set_title(title)
    return figure


def draw_nfe_over_training(axes: Axes, rows: Rows) -> None:
    """Draw the evaluations per iteration on `axes` that are there already."""
    for name, label in (("nfe_forward", "forward"), ("nfe_backward", "backward")):
        _draw(axes, rows, name, label)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="epoch", ylabel="field evaluations\nper iteration")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.lines:
        axes.legend()


def _draw(axes: Axes, rows: Rows, name: str, label: str) -> None:
    points = [(row["epoch"], row[name]) for row in rows if name in row]
    if points:
        epochs, values = zip(*points, strict=True)
        axes.plot(epochs, values, marker="o" if len(points) < 40 else "", label=label)
