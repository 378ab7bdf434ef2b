"""Figures of time series that a model reconstructs and continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import InputError
from .flow_panels import Array, Bounds, bare, height_over_width
from .series_panels import (
    DATA,
    MODEL,
    TRUTH,
    TRUTH_WIDTH,
    CheckedPanel,
    SeriesPanel,
    check_names,
    check_panels,
    draw_legend,
    label_outer,
    parts,
    remove_rest,
    ticks,
    wrapped,
)
from .style import new_figure, style

__all__ = ["plot_plane_series", "plot_series"]


def plot_series(
    panels: Sequence[SeriesPanel],
    features: Sequence[str] = (),
    split: float | None = None,
    limit: int = 4,
    band: str = "band",
    xlabel: str = "time",
    title: str = "",
) -> Figure:
    """Draw series over time: observations, and a model's path with its band.

    A column for each series and a row for each feature, of which the most observed are drawn; of a
    single feature the series are side by side. A row shares its axis, which fits what was observed
    and what was reconstructed: a wide band, or an extrapolation that runs away, is cut off.

    Args:
        panels: The series, one to five or so.
        features: Names, one for each column of their values; numbers if there are none.
        split: The time up to which the model saw the series; beyond it, the path is dashed.
        limit: Draws so many features, at most.
        band: What the bands are, such as "95 % interval".
        xlabel: What the times are, with their unit.
        title: Title of the figure.

    Raises:
        InputError: If there are no series, they do not fit each other, or a value is infinite, or
            NaN where it is no observation.
    """
    checked = check_panels("panels", panels)
    names = check_names("features", features, checked[0].mean.shape[1], "feature")
    if limit < 1:
        raise InputError("limit", str(limit), "at least one feature")
    chosen = _most_observed(checked, limit)
    # Row by row, so that the series of a single feature may be wrapped.
    pairs = [(feature, panel) for feature in chosen for panel in checked]
    grid = len(chosen) > 1
    rows, columns = (len(chosen), len(checked)) if grid else wrapped(len(checked))
    times = [time for panel in checked for time in (panel.times, panel.times_observed)]
    times += [panel.times_held_out for panel in checked]
    size = _dot_size(checked)
    with style():
        figure, cells = new_figure(
            rows, columns, width=3.0 if columns > 1 else 5.5, height=1.8 if rows > 1 else 2.9
        )
        for place, (axes, (feature, panel)) in enumerate(
            zip(remove_rest(cells, len(pairs)), pairs, strict=True)
        ):
            _draw_feature(axes, panel, feature, split, size)
            axes.set(xlim=_limits(times, 0.02), ylim=_span(checked, feature, split))
            axes.yaxis.set_major_locator(ticks(4))
            if not grid or place < columns:
                axes.set_title(panel.name, fontsize="medium")
            label_outer(axes, place, columns, len(pairs), xlabel=xlabel, ylabel=names[feature])
        draw_legend(figure, checked, split, band=band)
        figure.align_ylabels()
        figure.suptitle(title)
    return figure


def _most_observed(panels: Sequence[CheckedPanel], limit: int) -> list[int]:
    """The features of which most was observed, held out or not, in the order of their columns."""
    values = np.concatenate([part for panel in panels for part in (panel.observed, panel.held_out)])
    counts = (~np.isnan(values)).sum(axis=0)
    order = np.argsort(-counts, kind="stable")[:limit]
    # What was never observed has nothing to be compared with.
    return sorted(int(feature) for feature in order if counts[feature]) or [int(order[0])]


def _draw_feature(
    axes: Axes, panel: CheckedPanel, feature: int, split: float | None, size: float
) -> None:
    if panel.lower is not None and panel.upper is not None:
        band = panel.lower[:, feature], panel.upper[:, feature]
        axes.fill_between(panel.times, *band, color=MODEL, alpha=0.2, linewidth=0)
    if panel.truth is not None:
        axes.plot(panel.times, panel.truth[:, feature], color=TRUTH, linewidth=TRUTH_WIDTH)
    for share, line in parts(panel, split):
        axes.plot(panel.times[share], panel.mean[share, feature], line, color=MODEL)
    if split is not None:
        axes.axvline(split, color="0.3", linewidth=0.8, linestyle=":")
    _dots(axes, panel.times_observed, panel.observed[:, feature], size=size)
    _dots(axes, panel.times_held_out, panel.held_out[:, feature], size=size, face="white")


def _dots(axes: Axes, x: Array, y: Array, *, size: float, face: str = DATA) -> None:
    """Observations; where one of the coordinates was not observed, there is none."""
    seen = ~np.isnan(y) & ~np.isnan(x)
    axes.plot(
        x[seen],
        y[seen],
        "o",
        color=DATA,
        markerfacecolor=face,
        markersize=size,
        markeredgewidth=0.9,
        zorder=3,
    )


def _dot_size(panels: Sequence[CheckedPanel]) -> float:
    """Smaller the more of them there are, but the same in all panels."""
    counts = [(~np.isnan(panel.observed)).sum(axis=0) for panel in panels]
    return float(np.clip(250 / max(1, *map(np.max, counts)), 2.2, 3.2))


def _span(panels: Sequence[CheckedPanel], feature: int, split: float | None) -> tuple[float, float]:
    """The axis of a feature, which lets bands and extrapolations add as much again at each end."""
    low, high = _limits([line[:, feature] for line in _fixed(panels, split)], 0.06)
    free = [panel.mean for panel in panels]
    free += [band for panel in panels for band in (panel.lower, panel.upper) if band is not None]
    reach, size = _limits([line[:, feature] for line in free], 0.02), high - low
    return max(min(low, reach[0]), low - size), min(max(high, reach[1]), high + size)


def _fixed(panels: Sequence[CheckedPanel], split: float | None) -> list[Array]:
    """All that a picture must show whole: observations, truth and reconstruction."""
    lines = [part for panel in panels for part in (panel.observed, panel.held_out)]
    lines += [panel.truth for panel in panels if panel.truth is not None]
    inside = [
        panel.mean[slice(None) if split is None else panel.times <= split] for panel in panels
    ]
    # A path that begins beyond the split is all there is to show.
    return lines + (inside if any(map(len, inside)) else [panel.mean for panel in panels])


def _limits(values: Sequence[Array], margin: float) -> tuple[float, float]:
    """The range of the values that are not NaN, a little wider."""
    every = np.concatenate(values)
    low, high = float(np.nanmin(every)), float(np.nanmax(every))
    # What never changes still needs an axis.
    wider = margin * (high - low) or 0.5
    return low - wider, high + wider


def plot_plane_series(
    models: Mapping[str, Sequence[SeriesPanel]] | Sequence[SeriesPanel],
    split: float | None = None,
    title: str = "",
) -> Figure:
    """Draw Figure 8 (Chen et al. 2018): paths in the plane, reconstructed and continued.

    A dot marks where each path begins. Bands are left out. All panels share their bounds, which fit
    observations, truth and reconstruction; an extrapolation may leave them.

    Args:
        models: The series as each of some models has them, by its name: a row each. Or the series
            of one model, which are wrapped. The values have two columns, x and y.
        split: The time up to which the model saw the series; beyond it, the path is dashed.
        title: Title of the figure.

    Raises:
        InputError: If there are no series, they do not fit each other or are not of the plane, or a
            value is infinite, or NaN where it is no observation.
    """
    named = models if isinstance(models, Mapping) else {"": models}
    if not named:
        raise InputError("models", "no models", "at least one")
    checked = {name: check_panels(f"models[{name!r}]", some) for name, some in named.items()}
    count = max(map(len, checked.values()))
    for name, panels in checked.items():
        if panels[0].mean.shape[1] != 2:
            given = f"{panels[0].mean.shape[1]} features"
            raise InputError(f"models[{name!r}]", given, "2, the coordinates of a plane")
        if len(panels) != count:
            raise InputError(
                f"models[{name!r}]", f"{len(panels)} series", f"{count}, as the others"
            )
    every = [panel for panels in checked.values() for panel in panels]
    bounds = _plane(every, split)
    several, size = len(checked) > 1, _dot_size(every)
    rows, columns = (len(checked), count) if several else wrapped(count)
    # Where all rows show the same series, the first names them.
    once = all(panel.name == every[place % count].name for place, panel in enumerate(every))
    with style():
        width = max(2.2, 4.4 / columns)
        height = width * height_over_width(bounds) + 0.25
        figure, cells = new_figure(rows, columns, width=width, height=height)
        figure.set_layout_engine("compressed")
        for place, (axes, panel) in enumerate(
            zip(remove_rest(cells, len(every)), every, strict=True)
        ):
            _draw_path(axes, panel, split, size)
            bare(axes)
            axes.grid(visible=False)
            axes.set(xlim=bounds[:2], ylim=bounds[2:], aspect="equal")
            if not (several and once and place >= columns):
                axes.set_title(panel.name, fontsize="medium")
            if several and place % columns == 0:
                axes.set_ylabel(list(checked)[place // columns])
        draw_legend(figure, every, split, start=True)
        figure.suptitle(title)
    return figure


def _draw_path(axes: Axes, panel: CheckedPanel, split: float | None, size: float) -> None:
    if panel.truth is not None:
        axes.plot(*panel.truth.T, color=TRUTH, linewidth=TRUTH_WIDTH)
    for share, line in parts(panel, split):
        axes.plot(*panel.mean[share].T, line, color=MODEL)
    axes.plot(*panel.mean[0], "o", color=MODEL, markersize=5, zorder=3)
    _dots(axes, *panel.observed.T, size=size)
    _dots(axes, *panel.held_out.T, size=size, face="white")


def _plane(panels: Sequence[CheckedPanel], split: float | None) -> Bounds:
    if any(panel.truth is not None for panel in panels):
        # What the truth leaves empty is no place for an extrapolation.
        lines = _fixed(panels, split)
        return (
            *_limits([line[:, 0] for line in lines], 0.05),
            *_limits([line[:, 1] for line in lines], 0.05),
        )
    plain = [replace(panel, lower=None, upper=None) for panel in panels]
    return (*_span(plain, 0, split), *_span(plain, 1, split))
