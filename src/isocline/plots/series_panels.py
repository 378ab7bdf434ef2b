"""What the figures of time series share: one series checked, colours of classes and of steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ..errors import InputError, InputTypeError
from .flow_panels import COLOUR_MAP, Array, Values, as_array, check_values
from .style import COLORS

__all__ = [
    "DATA",
    "MODEL",
    "TRUTH",
    "TRUTH_WIDTH",
    "CheckedPanel",
    "SeriesPanel",
    "check_names",
    "check_panels",
    "check_times",
    "draw_legend",
    "label_outer",
    "legend_beneath",
    "parts",
    "progression",
    "remove_rest",
    "ticks",
    "wrapped",
]

# The colours that data and model have in the figures of flows.
DATA, MODEL, TRUTH = COLORS[0], COLORS[1], "0.65"
# Wider than the path of a model, which would hide it where it fits.
TRUTH_WIDTH = 2.6


@dataclass(frozen=True)
class SeriesPanel:
    """One series: what was seen of it, and what a model makes of it.

    Attributes:
        times_observed: (rows,), the times of what the model saw; there may be none.
        observed: (rows, D); NaN where nothing was observed.
        times: (T,), rising, the times of the model's path.
        mean: (T, D), the path.
        lower: (T, D), the lower end of a band about it.
        upper: (T, D), the upper end.
        truth: (T, D), the path without noise, where it is known.
        times_held_out: (n,), the times of observations that the model did not see.
        held_out: (n, D), these; NaN where nothing was observed.
        name: What stands above the panel.
    """

    times_observed: Values
    observed: Values
    times: Values
    mean: Values
    lower: Values | None = None
    upper: Values | None = None
    truth: Values | None = None
    times_held_out: Values | None = None
    held_out: Values | None = None
    name: str = ""


@dataclass(frozen=True)
class CheckedPanel:
    """A `SeriesPanel` as arrays that fit each other; without held-out observations there are 0."""

    times_observed: Array
    observed: Array
    times: Array
    mean: Array
    lower: Array | None
    upper: Array | None
    truth: Array | None
    times_held_out: Array
    held_out: Array
    name: str


def check_panels(name: str, panels: Sequence[SeriesPanel]) -> list[CheckedPanel]:
    """The panels as arrays; at least one of them, and all with the same number of features."""
    if len(panels) == 0:
        raise InputError(name, "no series", "at least one")
    checked: list[CheckedPanel] = []
    for index, panel in enumerate(panels):
        where = f"{name}[{index}]"
        if not isinstance(panel, SeriesPanel):
            raise InputTypeError(where, type(panel).__name__, "a SeriesPanel")
        checked.append(_check_panel(where, panel))
        features, first = checked[-1].mean.shape[1], checked[0].mean.shape[1]
        if features != first:
            raise InputError(f"{where}.mean", f"{features} features", f"{first}, as the first")
    return checked


def _check_panel(name: str, panel: SeriesPanel) -> CheckedPanel:
    times = check_times(f"{name}.times", panel.times)
    mean = check_values(f"{name}.mean", panel.mean, 2)
    if len(mean) != len(times):
        raise InputError(f"{name}.mean", f"shape {mean.shape}", f"({len(times)}, D), as the times")
    if (panel.lower is None) != (panel.upper is None):
        raise InputError(f"{name}.lower, {name}.upper", "one of them", "both or neither")
    if (panel.times_held_out is None) != (panel.held_out is None):
        pair = f"{name}.times_held_out, {name}.held_out"
        raise InputError(pair, "one of them", "both or neither")
    seen = _check_points(f"{name}.observed", panel.times_observed, panel.observed, mean.shape[1])
    hidden = np.zeros(0), np.zeros((0, mean.shape[1]))
    if panel.times_held_out is not None and panel.held_out is not None:
        hidden = _check_points(
            f"{name}.held_out", panel.times_held_out, panel.held_out, mean.shape[1]
        )
    return CheckedPanel(
        *seen,
        times,
        mean,
        _alike(f"{name}.lower", panel.lower, mean),
        _alike(f"{name}.upper", panel.upper, mean),
        _alike(f"{name}.truth", panel.truth, mean),
        *hidden,
        panel.name,
    )


def check_times(name: str, times: Values) -> Array:
    """Times of a path, (T,), rising."""
    array = check_values(name, times, 1)
    if (np.diff(array) < 0).any():
        raise InputError(name, "times that fall", "rising times")
    return array


def check_names(name: str, names: Sequence[str], count: int, default: str) -> list[str]:
    """Names of so many things; where there are none, `default` and a number."""
    if names and len(names) != count:
        raise InputError(name, f"{len(names)} names", f"one for each of {count}")
    return list(names) or [f"{default} {index + 1}" for index in range(count)]


def _check_points(name: str, times: Values, values: Values, features: int) -> tuple[Array, Array]:
    """Observations in the order given: no times at all are as good as some."""
    moments, points = as_array(f"times of {name}", times), as_array(name, values)
    if points.shape != (len(moments) if moments.ndim == 1 else -1, features):
        given = f"shape {points.shape} at times of shape {moments.shape}"
        raise InputError(name, given, f"(rows, {features}) at times (rows,)")
    if not np.isfinite(moments).all() or np.isinf(points).any():
        raise InputError(name, "times or values that are infinite", "finite ones, or values NaN")
    return moments, points


def _alike(name: str, values: Values | None, mean: Array) -> Array | None:
    if values is None:
        return None
    array = check_values(name, values, 2)
    if array.shape != mean.shape:
        raise InputError(name, f"shape {array.shape}", f"{mean.shape}, as the mean")
    return array


def parts(panel: CheckedPanel, split: float | None) -> list[tuple[slice, str]]:
    """The path up to the split, drawn solid, and that beyond it, drawn dashed and joined to it."""
    if split is None:
        return [(slice(None), "-")]
    inside = int(np.searchsorted(panel.times, split, side="right"))
    shares = [(slice(0, inside), "-"), (slice(max(inside - 1, 0), None), "--")]
    return [(share, line) for share, line in shares if len(panel.times[share]) > 1]


def draw_legend(
    figure: Figure,
    panels: Sequence[CheckedPanel],
    split: float | None,
    *,
    band: str = "",
    start: bool = False,
) -> None:
    """Name what any of the panels holds, once, beneath all of them."""
    dot: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 4, "color": DATA}
    handles: list[Artist] = []
    if any(not np.isnan(panel.observed).all() for panel in panels):
        handles.append(Line2D([], [], label="observed", **dot))
    if any(not np.isnan(panel.held_out).all() for panel in panels):
        handles.append(Line2D([], [], label="held out", markerfacecolor="white", **dot))
    if any(panel.truth is not None for panel in panels):
        handles.append(Line2D([], [], color=TRUTH, linewidth=TRUTH_WIDTH, label="truth"))
    beyond = split is not None and any(panel.times[-1] > split for panel in panels)
    handles.append(Line2D([], [], color=MODEL, label="reconstruction" if beyond else "model"))
    if beyond:
        handles.append(Line2D([], [], color=MODEL, linestyle="--", label="extrapolation"))
    if start:
        handles.append(Line2D([], [], linestyle="", marker="o", color=MODEL, label="start"))
    if band and any(panel.lower is not None for panel in panels):
        handles.append(Patch(color=MODEL, alpha=0.2, linewidth=0, label=band))
    legend_beneath(figure, handles)


def legend_beneath(figure: Figure, handles: Sequence[Artist], inches: float = 1.45) -> Legend:
    """A legend in as many columns, of so many inches each, as fit the width of the figure."""
    fitting = max(1, int(figure.get_figwidth() / inches))
    # No row with a single entry below one of three.
    _, columns = wrapped(len(handles), fitting)
    return figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        columnspacing=1.4,
        handlelength=1.8,
    )


def wrapped(count: int, most: int = 4) -> tuple[int, int]:
    """Rows and columns that hold so many panels, and leave as few cells empty as can be."""
    rows = math.ceil(count / most)
    return rows, math.ceil(count / rows)


def remove_rest(panels: Sequence[Axes], count: int) -> list[Axes]:
    """The first so many of the panels; the others are taken away."""
    for axes in panels[count:]:
        axes.remove()
    return list(panels[:count])


def label_outer(
    axes: Axes, place: int, columns: int, count: int, *, xlabel: str, ylabel: str
) -> None:
    """Label a panel of several that share their axes: where no panel stands below or to the left.

    Above an empty cell only the numbers stand: the label too would push the rows apart.
    """
    leftmost, lowest = place % columns == 0, place + columns >= count
    axes.tick_params(labelleft=leftmost, labelbottom=lowest)
    axes.xaxis.set_major_locator(ticks(5))
    if leftmost:
        # In lines, for a long name would run into the row above.
        axes.set_ylabel(fill(ylabel, 16))
    if lowest and place // columns == (count - 1) // columns:
        axes.set_xlabel(xlabel)


def ticks(most: int) -> MaxNLocator:
    """At round places, as matplotlib has them by default, but no more than so many steps."""
    return MaxNLocator(most, steps=[1, 2, 2.5, 5, 10])


def progression() -> Colormap:
    """Colours from an early to a late step; the map's end, yellow, is lost on white."""
    colors = colormaps[COLOUR_MAP](np.linspace(0.0, 0.88, 256))
    return LinearSegmentedColormap.from_list("progression", list(colors))
