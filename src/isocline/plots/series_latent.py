"""Figures of the latent space of a model of time series: where the series lie in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from ..errors import InputError
from .flow_panels import Array, Values, as_array, check_values
from .series_panels import legend_beneath
from .style import COLORS, new_figure, style

__all__ = ["plot_latent_space"]

# Classes beyond the colours have them again, with another marker.
MARKERS = ("o", "^", "s", "D", "v", "P")
UNKNOWN = "0.6"


class Group(NamedTuple):
    """The series of one class, and how they are drawn."""

    name: str
    color: str
    marker: str
    members: npt.NDArray[np.bool_]


def plot_latent_space(
    means: Values, labels: Values | None = None, names: Sequence[str] = (), title: str = ""
) -> Figure:
    """Draw where series lie in the latent space: the first two principal components, by class.

    The axes say what share of the variance each component has. Of a single latent dimension there
    is a histogram for each class.

    Args:
        means: (N, latent), such as the means of the posterior of each series.
        labels: (N,), the class of each, from 0; -1 or NaN where it is not known.
        names: Names of the classes; numbers if there are none.
        title: Title of the figure.

    Raises:
        InputError: If a shape is wrong, a mean is NaN or infinite, or there are fewer names than
            classes.
    """
    points = check_values("means", means, 2)
    groups = _groups(labels, len(points), names)
    with style():
        figure, (axes,) = new_figure(width=5.0, height=4.2)
        if points.shape[1] == 1:
            _draw_histograms(axes, points[:, 0], groups)
        else:
            _draw_components(axes, points, groups)
        if labels is not None:
            _legend(figure, axes, [name for name, *_ in groups])
        axes.set_title(title)
    return figure


def _draw_histograms(axes: Axes, points: Array, groups: Sequence[Group]) -> None:
    bins = int(np.clip(2 * len(points) ** (1 / 3), 12, 40))
    edges = list(np.histogram_bin_edges(points, bins))
    for name, color, _, members in groups:
        look: dict[str, Any] = {"color": color, "label": name, "alpha": 0.5}
        axes.hist(points[members], edges, histtype="stepfilled", **look)
    axes.set(xlabel="latent state", ylabel="series")


def _draw_components(axes: Axes, points: Array, groups: Sequence[Group]) -> None:
    places, shares = _components(points)
    # The largest class first, so that it does not hide the others.
    for group in sorted(groups, key=lambda group: -int(group.members.sum())):
        axes.scatter(
            places[group.members, 0],
            places[group.members, 1],
            s=float(np.clip(6e3 / len(points), 8, 24)),
            alpha=float(np.clip(1e3 / len(points), 0.35, 0.8)),
            color=group.color,
            marker=group.marker,
            label=group.name,
            linewidths=0,
            rasterized=True,
        )
    axes.set(
        xlabel=f"first component ({100 * shares[0]:.0f} % of the variance)",
        ylabel=f"second component ({100 * shares[1]:.0f} %)",
    )


def _legend(figure: Figure, axes: Axes, names: Sequence[str]) -> None:
    """Name the classes in their order beneath the panel: points may fill any of its corners."""
    handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    legend = legend_beneath(figure, [handles[name] for name in names])
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set(alpha=1.0, sizes=[28.0])


def _groups(labels: Values | None, count: int, names: Sequence[str]) -> list[Group]:
    """For each class that occurs its name, colour, marker and which series belong to it."""
    if labels is None:
        return [Group("series", COLORS[0], MARKERS[0], np.ones(count, dtype=bool))]
    classes = as_array("labels", labels)
    if classes.shape != (count,):
        raise InputError("labels", f"shape {classes.shape}", f"({count},), one for each series")
    classes = np.where(np.isnan(classes), -1, classes)
    largest = int(classes.max(initial=-1))
    if (classes != np.round(classes)).any() or (classes < -1).any():
        raise InputError("labels", "other values", "classes from 0, or -1 where it is not known")
    if names and len(names) <= largest:
        raise InputError("names", f"{len(names)} names", f"one for each of {largest + 1} classes")
    groups = []
    for label in range(-1, largest + 1):
        members = classes == label
        if members.any():
            name = "unknown" if label < 0 else (names[label] if names else f"class {label}")
            color = UNKNOWN if label < 0 else COLORS[label % len(COLORS)]
            marker = MARKERS[max(label, 0) // len(COLORS) % len(MARKERS)]
            groups.append(Group(name, color, marker, members))
    return groups


def _components(points: Array) -> tuple[Array, Array]:
    """The first two principal components, (N, 2), and the share of the variance of each."""
    centred = points - points.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    variance = singular**2
    places = centred @ axes.T
    # The sign of a component is chance: its largest weight counts as positive.
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    places = places * np.where(signs == 0, 1.0, signs)
    if len(singular) < 2:  # a single series
        places, variance = np.pad(places, ((0, 0), (0, 1))), np.pad(variance, (0, 1))
    return places[:, :2], (variance / (variance.sum() or 1.0))[:2]
