"""A corner plot: pairs of columns of a table, data against samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ..errors import InputError
from .flow_panels import Array, Values, check_values
from .style import COLORS, new_figure, style

__all__ = ["plot_pairs"]

# The regions drawn hold these shares of the points, densest first.
SHARES = (0.9, 0.5)
# Per cent of the data that may lie beyond either end of an axis.
TAIL = 0.5


def plot_pairs(
    data: Values,
    samples: Values,
    columns: Sequence[str] = (),
    limit: int = 6,
    title: str = "",
) -> Figure:
    """Draw the first columns of a table against each other: data filled, samples as lines.

    On the diagonal are histograms of single columns. Below it, contours of smoothed histograms
    bound the densest regions that hold half and nine tenths of the points within the axes.
    The axes fit the data, not the samples; they leave out half a per cent at either end.

    Args:
        data: (n, d).
        samples: (m, d).
        columns: Names of the columns; numbers if there are none.
        limit: Draws the first columns, at most so many.
        title: Title of the figure.

    Raises:
        InputError: If a shape is wrong, or a value NaN or infinite.
    """
    known = check_values("data", data, 2)
    drawn = check_values("samples", samples, 2)
    width = known.shape[1]
    if drawn.shape[1] != width:
        raise InputError("samples", f"shape {drawn.shape}", f"(m, {width}), as the data")
    if columns and len(columns) != width:
        raise InputError("columns", f"{len(columns)} names", f"one for each of {width} columns")
    if limit < 1:
        raise InputError("limit", str(limit), "at least one column")
    size = min(width, limit)
    names = list(columns) or [f"column {index + 1}" for index in range(width)]
    bins = _bins(min(len(known), len(drawn)))
    spans = [_span(known[:, index]) for index in range(size)]
    with style():
        figure, panels = new_figure(
            size, size, width=1.6 if size > 1 else 4.0, height=1.5 if size > 1 else 2.6
        )
        for row in range(size):
            for column in range(size):
                axes = panels[row * size + column]
                if column > row:
                    axes.remove()
                    continue
                if column == row:
                    _draw_column(axes, known[:, row], drawn[:, row], spans[row], bins)
                else:
                    _draw_pair(axes, known, drawn, (column, row), spans, bins)
                _label(axes, names, row, column, last=row == size - 1)
        _draw_legend(figure, panels[0] if size == 1 else None)
        figure.align_ylabels()
        figure.suptitle(title)
    return figure


def _draw_legend(figure: Figure, axes: Axes | None) -> None:
    handles = [
        Patch(color=COLORS[0], alpha=0.5, label="data"),
        Line2D([], [], color=COLORS[1], label="samples"),
    ]
    if axes is None:
        # Above the diagonal there is nothing.
        figure.legend(handles=handles, loc="upper right")
    else:
        axes.legend(handles=handles)


def _bins(count: int) -> int:
    """As many bins as so many points can fill: Rice's rule, within what a small panel can show."""
    return int(np.clip(2 * count ** (1 / 3), 12, 40))


def _span(values: Array) -> tuple[float, float]:
    low, high = np.percentile(values, [TAIL, 100 - TAIL])
    # A column that hardly varies still needs an axis.
    margin = 0.08 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _draw_column(
    axes: Axes, data: Array, samples: Array, span: tuple[float, float], bins: int
) -> None:
    edges = list(np.linspace(*span, bins + 1))
    # Shares of all points, also those beyond the axis: samples that stray are missed here.
    known, drawn = (np.full(len(values), 1 / len(values)) for values in (data, samples))
    axes.hist(data, edges, weights=known, histtype="stepfilled", color=COLORS[0], alpha=0.5)
    axes.hist(samples, edges, weights=drawn, histtype="step", color=COLORS[1], linewidth=1.2)
    axes.set_xlim(span)


def _draw_pair(
    axes: Axes,
    data: Array,
    samples: Array,
    pair: tuple[int, int],
    spans: Sequence[tuple[float, float]],
    bins: int,
) -> None:
    x, y = pair
    for points, filled in ((data, True), (samples, False)):
        counts, *edges = np.histogram2d(
            points[:, x], points[:, y], bins, range=[spans[x], spans[y]]
        )
        density = _smooth(counts.T)
        levels = _levels(density)
        middles = [(edge[1:] + edge[:-1]) / 2 for edge in edges]
        if levels and filled:
            fills = [*levels, max(float(density.max()), 1.001 * levels[-1])]
            colors = [(COLORS[0], alpha) for alpha in (0.25, 0.6)][-len(levels) :]
            axes.contourf(*middles, density, levels=fills, colors=colors)
        elif levels:
            axes.contour(*middles, density, levels=levels, colors=COLORS[1], linewidths=0.9)
    axes.set(xlim=spans[x], ylim=spans[y])
    axes.grid(visible=False)


def _smooth(counts: Array) -> Array:
    """Smooth over about a bin: contours of raw counts are all splinters."""
    kernel = np.exp(-0.5 * np.arange(-3, 4) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        counts = np.apply_along_axis(np.convolve, axis, counts, kernel, mode="same")
    return counts


def _levels(density: Array) -> list[float]:
    """The levels above which the density holds each of `SHARES`, rising; none if it is empty."""
    ordered = np.sort(density, axis=None)[::-1]
    mass = np.cumsum(ordered)
    if mass[-1] <= 0:
        return []
    levels = {float(ordered[np.searchsorted(mass, share * mass[-1])]) for share in SHARES}
    return sorted(levels)


def _label(axes: Axes, names: Sequence[str], row: int, column: int, *, last: bool) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(3, prune="both"))
    axes.yaxis.set_major_locator(MaxNLocator(3, prune="both"))
    axes.tick_params(labelsize="x-small")
    if last:
        axes.set_xlabel(names[column])
    else:
        axes.set_xticklabels([])
    if row == column:
        # The height of a histogram says nothing: it is its shape that counts.
        axes.set_yticks([])
        axes.grid(visible=False)
    elif column == 0:
        axes.set_ylabel(names[row])
    else:
        axes.set_yticklabels([])
