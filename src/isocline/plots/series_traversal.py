"""Figures of what a model of time series decodes as its latent state is moved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ..errors import InputError
from .flow_panels import Array, Bounds, Values, bare, check_values, height_over_width
from .series_panels import (
    check_names,
    check_times,
    label_outer,
    progression,
    remove_rest,
    ticks,
    wrapped,
)
from .style import new_figure, style

__all__ = ["plot_series_traversal", "plot_traversal"]


def plot_traversal(
    paths: Values, offsets: Values, names: Sequence[str] = (), title: str = ""
) -> Figure:
    """Draw Figure 9 (Chen et al. 2018): paths in the plane as the latent state is moved.

    A row for each direction in which it is moved, a column for how far. The colour goes with time,
    from dark to light; a dot marks the beginning.

    Args:
        paths: (directions, steps, T, 2), what is decoded from each latent state.
        offsets: (steps,), how far it was moved, in standard deviations.
        names: Names of the directions, such as "component 1"; numbers if there are none.
        title: Title of the figure.

    Raises:
        InputError: If a shape is wrong, or a value NaN or infinite.
    """
    states = check_values("paths", paths, 4)
    if states.shape[3] != 2 or states.shape[2] < 2:
        raise InputError(
            "paths", f"shape {states.shape}", "(directions, steps, T, 2), T at least 2"
        )
    moves = _offsets(offsets, states.shape[1])
    rows = check_names("names", names, len(states), "dimension")
    bounds = _bounds(states)
    with style():
        size = 1.5
        height = size * height_over_width(bounds) + 0.1
        figure, cells = new_figure(len(states), len(moves), width=size, height=height)
        # Room for the colour bar; without it the panels would be narrower than they are high.
        figure.set_figwidth(figure.get_figwidth() + 1.0)
        figure.set_layout_engine("compressed")
        for place, axes in enumerate(cells):
            row, column = divmod(place, len(moves))
            path = states[row, column]
            segments = np.stack([path[:-1], path[1:]], axis=1)
            lines = LineCollection(list(segments), cmap=progression(), linewidths=1.4)
            lines.set(array=np.linspace(0, 1, len(segments)), clim=(0, 1), capstyle="round")
            axes.add_collection(lines)
            axes.plot(*path[0], "o", color=progression()(0.0), markersize=4)
            bare(axes)
            axes.grid(visible=False)
            axes.set(xlim=bounds[:2], ylim=bounds[2:], aspect="equal")
            if row == 0:
                axes.set_title(_name_of_move(moves[column]), fontsize="medium")
            if column == 0:
                axes.set_ylabel(rows[row], fontsize="medium")
        bar = figure.colorbar(lines, ax=cells, ticks=[0, 1], label="time", aspect=30, pad=0.02)
        bar.ax.set_yticklabels(["start", "end"])
        bar.ax.grid(visible=False)
        figure.suptitle(title)
    return figure


def plot_series_traversal(
    paths: Values,
    times: Values,
    offsets: Values,
    names: Sequence[str] = (),
    feature: str = "",
    xlabel: str = "time",
    title: str = "",
) -> Figure:
    """Draw a feature over time as the latent state is moved.

    A panel for each direction in which it is moved, a line for each step, coloured by how far.

    Args:
        paths: (directions, steps, T), what is decoded from each latent state.
        times: (T,), rising.
        offsets: (steps,), how far it was moved, in standard deviations.
        names: Names of the directions, such as "component 1"; numbers if there are none.
        feature: What is decoded, with its unit.
        xlabel: What the times are, with their unit.
        title: Title of the figure.

    Raises:
        InputError: If a shape is wrong, or a value NaN or infinite.
    """
    states = check_values("paths", paths, 3)
    moments = check_times("times", times)
    if states.shape[2] != len(moments):
        raise InputError("paths", f"shape {states.shape}", f"(directions, steps, {len(moments)})")
    moves = _offsets(offsets, states.shape[1])
    panels = check_names("names", names, len(states), "dimension")
    rows, columns = wrapped(len(panels))
    scale = Normalize(moves.min(), max(moves.max(), moves.min() + 1e-6))
    low, high = float(states.min()), float(states.max())
    margin = 0.06 * (high - low) or 0.5
    with style():
        figure, cells = new_figure(rows, columns, width=3.0, height=2.3)
        cells = remove_rest(cells, len(panels))
        for place, (axes, name, lines) in enumerate(zip(cells, panels, states, strict=True)):
            for move, line in zip(moves, lines, strict=True):
                axes.plot(moments, line, color=progression()(scale(move)))
            axes.set_title(name, fontsize="medium")
            axes.set_ylim(low - margin, high + margin)
            axes.yaxis.set_major_locator(ticks(5))
            label_outer(axes, place, columns, len(panels), xlabel=xlabel, ylabel=feature)
        bar = figure.colorbar(
            ScalarMappable(scale, progression()), ax=cells, label="moved by (sd)", pad=0.02
        )
        bar.ax.grid(visible=False)
        figure.suptitle(title)
    return figure


def _offsets(offsets: Values, steps: int) -> Array:
    moves = check_values("offsets", offsets, 1)
    if len(moves) != steps:
        raise InputError("offsets", f"{len(moves)} of them", f"{steps}, as many as steps")
    return moves


def _name_of_move(move: float) -> str:
    return f"{move:+.2g} sd".replace("-", "\N{MINUS SIGN}") if move else "0 sd"


def _bounds(paths: Array) -> Bounds:
    low, high = paths.reshape(-1, 2).min(axis=0), paths.reshape(-1, 2).max(axis=0)
    margin = 0.06 * (high - low)
    margin[margin == 0] = 0.5
    (left, bottom), (right, top) = low - margin, high + margin
    return float(left), float(right), float(bottom), float(top)
