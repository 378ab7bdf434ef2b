"""Figures of a training run: how well it does, and the evaluations it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import COLORS, new_figure, style

__all__ = ["Rows", "draw_nfe_over_training", "plot_error", "plot_nfe", "plot_progress"]

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


def plot_progress(
    rows: Rows,
    series: Sequence[tuple[str, str]],
    ylabel: str,
    level: float | None = None,
    level_name: str = "",
    title: str = "",
) -> Figure:
    """Draw a score, and beside it the evaluations of the field, against iterations.

    Without evaluations, as of a model that solves nothing, there is no panel for them.

    Args:
        rows: Mappings with ``step`` (iterations done) and, as far as they were measured then, the
            keys of `series`, ``nfe_forward``, ``nfe_backward`` and ``validation_nfe`` (per solve).
        series: Keys of the score, each with its label.
        ylabel: What the score is, with its unit.
        level: A height to compare with, such as the best that can be reached.
        level_name: What it is.
        title: Title of the figure.
    """
    evaluations = (
        ("nfe_forward", "forward"),
        ("nfe_backward", "backward"),
        ("validation_nfe", "held out"),
    )
    solves = any(name in row for row in rows for name, _ in evaluations)
    with style():
        figure, panels = new_figure(1, 1 + solves, width=4.4, height=3.2)
        score = panels[0]
        for (name, label), color in zip(series, COLORS, strict=False):
            _draw(score, rows, name, label, against="step", color=color)
        if level is not None:
            score.axhline(level, color="0.3", linestyle="--", linewidth=1.2, label=level_name)
        score.set(xlabel="iteration", ylabel=ylabel)
        for work in panels[1:]:
            for (name, label), color in zip(evaluations, COLORS, strict=False):
                _draw(work, rows, name, label, against="step", color=color)
            work.set_ylim(bottom=0)
            work.set(xlabel="iteration", ylabel="field evaluations\nper solve")
        for axes in panels:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            if axes.lines:
                axes.legend()
        figure.suptitle(title)
    return figure


def _draw(
    axes: Axes,
    rows: Rows,
    name: str,
    label: str,
    *,
    against: str = "epoch",
    color: str | None = None,
) -> None:
    points = [(row[against], row[name]) for row in rows if name in row]
    if points:
        times, values = zip(*points, strict=True)
        marker = "o" if len(points) < 40 else ""
        axes.plot(times, values, marker=marker, label=label, color=color)
