"""Figure 7 of the paper: the intensity of events, and when they happened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..errors import InputError
from .flow_panels import Array, Values, as_array, check_values
from .series_panels import (
    DATA,
    MODEL,
    TRUTH,
    check_times,
    label_outer,
    legend_beneath,
    remove_rest,
    ticks,
    wrapped,
)
from .style import new_figure, style

__all__ = ["plot_intensity"]

# The strip of the events below the curves, as a share of the curves' height.
STRIP = 0.16


def plot_intensity(
    times: Values,
    intensities: Values,
    events: Sequence[Values],
    truth: Values | None = None,
    names: Sequence[str] = (),
    xlabel: str = "time",
    title: str = "",
) -> Figure:
    """Draw Figure 7 (Chen et al. 2018): intensities over time, with the events below them.

    Args:
        times: (T,), rising.
        intensities: (N, T), events per unit of time, of each series.
        events: For each series the times of its events, (n,); there may be none.
        truth: (N, T), the true intensities, where they are known.
        names: What stands above each panel; nothing if there are none.
        xlabel: What the times are, with their unit.
        title: Title of the figure.

    Raises:
        InputError: If a shape is wrong, a value NaN or infinite, or an intensity negative.
    """
    moments = check_times("times", times)
    curves = _rates("intensities", intensities, len(moments))
    known = None if truth is None else _rates("truth", truth, len(moments))
    if known is not None and known.shape != curves.shape:
        raise InputError("truth", f"shape {known.shape}", f"{curves.shape}, as the intensities")
    if len(events) != len(curves):
        raise InputError("events", f"{len(events)} series", f"{len(curves)}, as intensities")
    if names and len(names) != len(curves):
        raise InputError("names", f"{len(names)} names", f"one for each of {len(curves)} series")
    marks = [_moments(f"events[{index}]", some) for index, some in enumerate(events)]
    rows, columns = wrapped(len(curves), 3)
    top = 1.08 * max(float(curves.max()), 0.0 if known is None else float(known.max())) or 1.0
    every = np.concatenate([moments, *marks])
    with style():
        figure, cells = new_figure(
            rows, columns, width=3.6 if columns > 1 else 5.5, height=2.0 if rows > 1 else 2.8
        )
        for place, axes in enumerate(remove_rest(cells, len(curves))):
            axes.plot(moments, curves[place], color=MODEL)
            if known is not None:
                axes.plot(moments, known[place], "--", color=TRUTH, zorder=1.5)
            _draw_events(axes, marks[place], top)
            axes.set_xlim(every.min(), every.max())
            axes.set_title(names[place] if names else "", fontsize="medium")
            label_outer(axes, place, columns, len(curves), xlabel=xlabel, ylabel="intensity")
        _draw_legend(figure, truth=known is not None)
        figure.suptitle(title)
    return figure


def _rates(name: str, values: Values, count: int) -> Array:
    array = check_values(name, values, 2)
    if array.shape[1] != count:
        raise InputError(name, f"shape {array.shape}", f"(series, {count}), as the times")
    if array.min() < 0:
        raise InputError(
            name, f"values down to {array.min():.3g}", "rates, which are never negative"
        )
    return array


def _moments(name: str, values: Values) -> Array:
    array = as_array(name, values)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise InputError(name, f"shape {array.shape}, or infinite times", "finite times, (n,)")
    return array


def _draw_events(axes: Axes, events: Array, top: float) -> None:
    """A mark for each event, in a strip below zero, where no intensity can be."""
    look: dict[str, Any] = {
        "colors": DATA,
        "linewidths": float(np.clip(60 / max(1, len(events)), 0.5, 1.0)),
    }
    axes.vlines(events, -STRIP * top, -0.04 * top, **look)
    axes.set_ylim(-1.1 * STRIP * top, top)
    places = ticks(4).tick_values(0, top)
    axes.set_yticks([tick for tick in places if 0 <= tick <= top])
    axes.spines["left"].set_bounds(0, top)


def _draw_legend(figure: Figure, *, truth: bool) -> None:
    handles: list[Artist] = [Line2D([], [], color=MODEL, label="model")]
    if truth:
        handles.append(Line2D([], [], color=TRUTH, linestyle="--", label="truth"))
    bar: dict[str, Any] = {"linestyle": "", "marker": "|", "markersize": 9, "markeredgewidth": 1.0}
    handles.append(Line2D([], [], color=DATA, label="events", **bar))
    legend_beneath(figure, handles)
