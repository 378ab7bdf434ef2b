"""Figures 4 and 5 of the paper: flows that learn a density, and a flow between noise and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

from ..errors import InputError
from .flow_panels import (
    Array,
    Bounds,
    FlowFrame,
    Values,
    bare,
    check_bounds,
    check_density,
    check_frames,
    check_points,
    colour_limit,
    draw_density,
    draw_points,
    height_over_width,
    name_of_moment,
)
from .style import COLORS, new_figure, style

__all__ = ["DensityMatch", "plot_density_matching", "plot_sequence"]


@dataclass(frozen=True)
class DensityMatch:
    """One row of Figure 4: a target, and what flows of several sizes made of it.

    Attributes:
        name: Name of the target.
        target: Its density on the grid, (H, W); it need not be normalised.
        cnf: Densities (H, W) of continuous flows, by their number of hidden units M.
        nf: Densities (H, W) of planar flows, by their number of layers K.
        cnf_loss: Final losses, by M; the sizes need not be those of `cnf`.
        nf_loss: Final losses, by K.
        least_loss: The loss of a perfect match, where it is known: minus the log of the target's
            normaliser.
    """

    name: str
    target: Values
    cnf: Mapping[int, Values]
    nf: Mapping[int, Values]
    cnf_loss: Mapping[int, float] = field(default_factory=dict)
    nf_loss: Mapping[int, float] = field(default_factory=dict)
    least_loss: float | None = None


def plot_density_matching(rows: Sequence[DensityMatch], bounds: Bounds, title: str = "") -> Figure:
    """Draw Figure 4 (Chen et al. 2018): targets, flows that were matched to them, and losses.

    The panels of a row share one colour scale. The target is normalised on the grid before it is
    drawn, since the models' densities are normalised by nature.

    Args:
        rows: One for each target; all have the same sizes M and the same K.
        bounds: Left, right, bottom, top of every density.
        title: Title of the figure.

    Raises:
        InputError: If there are no rows, their sizes differ, or a density has a wrong shape, is
            negative, NaN or infinite.
    """
    bounds = check_bounds(bounds)
    if len(rows) == 0:
        raise InputError("rows", "no rows", "at least one")
    checked = [_densities(index, row, rows[0], bounds) for index, row in enumerate(rows)]
    headings = ["target", *(f"CNF, M = {m}" for m in sorted(rows[0].cnf))]
    headings += [f"NF, K = {k}" for k in sorted(rows[0].nf)]
    columns = len(headings) + 1
    with style():
        # Inches: the panels, ticks below each, then what stands once above and below them all.
        total = len(rows) * (1.47 * height_over_width(bounds) + 0.28) + (0.8 if title else 0.45)
        figure, panels = new_figure(len(rows), columns, width=1.6, height=total / len(rows))
        for index, (row, densities) in enumerate(zip(rows, checked, strict=True)):
            *images, losses = panels[index * columns : (index + 1) * columns]
            limit = colour_limit(densities)
            for axes, density in zip(images, densities, strict=True):
                draw_density(axes, density, bounds, limit)
                bare(axes)
            images[0].set_ylabel(row.name)
            _draw_losses(losses, row, height_over_width(bounds), last=index == len(rows) - 1)
        for axes, heading in zip(panels, [*headings, "loss"], strict=False):
            axes.set_title(heading, fontsize="medium")
        figure.suptitle(title)
    return figure


def _densities(index: int, row: DensityMatch, first: DensityMatch, bounds: Bounds) -> list[Array]:
    for name, given, expected in (("cnf", row.cnf, first.cnf), ("nf", row.nf, first.nf)):
        if sorted(given) != sorted(expected):
            raise InputError(
                f"rows[{index}].{name}",
                f"sizes {sorted(given)}",
                f"{sorted(expected)}, as in the first row",
            )
    target = check_density(f"rows[{index}].target", row.target)
    left, right, bottom, top = bounds
    total = target.mean() * (right - left) * (top - bottom)
    if total == 0:
        raise InputError(f"rows[{index}].target", "zero everywhere", "a density")
    densities = [target / total]
    for name, sizes in (("cnf", row.cnf), ("nf", row.nf)):
        where = f"rows[{index}].{name}"
        densities += [check_density(f"{where}[{size}]", sizes[size]) for size in sorted(sizes)]
    return densities


def _draw_losses(axes: Axes, row: DensityMatch, shape: float, *, last: bool) -> None:
    axes.set_xscale("log", base=2)
    for losses, label, marker, color in (
        (row.cnf_loss, "CNF", "o", COLORS[0]),
        (row.nf_loss, "NF", "s", COLORS[1]),
    ):
        if losses:
            sizes = sorted(losses)
            values = [losses[size] for size in sizes]
            axes.plot(sizes, values, marker=marker, markersize=4, color=color, label=label)
    if row.least_loss is not None:
        axes.axhline(row.least_loss, color="0.3", linestyle="--", linewidth=1, label="least")
    axes.xaxis.set_major_locator(FixedLocator(sorted({*row.cnf_loss, *row.nf_loss})))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize="small")
    # As tall as the images beside it, which hold to their own shape.
    axes.set_box_aspect(shape)
    axes.yaxis.tick_right()
    axes.spines["right"].set_visible(True)
    axes.spines["left"].set_visible(False)
    if last:
        axes.set_xlabel("M or K")
    if axes.lines:
        axes.legend(fontsize="small")


def plot_sequence(
    models: Mapping[str, Sequence[FlowFrame]] | Sequence[FlowFrame],
    data: Values,
    bounds: Bounds,
    title: str = "",
) -> Figure:
    """Draw Figure 5 (Chen et al. 2018): how flows turn noise into data, with the data beside them.

    Each model has a row of densities, which share one colour scale, and below it one of samples,
    which ends with the target.

    Args:
        models: The frames of each model, by its name, such as those at 5, 20, 40, 60, 80 and 100 %
            of the time; or the frames of one model. A discrete flow's moments are texts,
            ``"K = 8"``. Every model has as many frames as the first.
        data: Samples of the target, (n, 2).
        bounds: Left, right, bottom, top of every panel.
        title: Title of the figure.

    Raises:
        InputError: If there are no frames, their numbers differ, or an array has a wrong shape or
            values that are NaN or infinite.
    """
    bounds = check_bounds(bounds)
    points = check_points("data", data)
    if not isinstance(models, Mapping):
        models = {"": models}
    if not models:
        raise InputError("models", "no models", "at least one")
    checked = {name: check_frames(f"models[{name!r}]", items) for name, items in models.items()}
    count = len(next(iter(checked.values())))
    for name, frames in checked.items():
        if len(frames) != count:
            raise InputError(f"models[{name!r}]", f"{len(frames)} frames", f"{count}, as the first")
    with style():
        # Inches: the panels, the headings of each model, the title.
        total = len(checked) * (3.14 * height_over_width(bounds) + 0.38) + (0.35 if title else 0)
        figure, panels = new_figure(
            2 * len(checked), count + 1, width=1.7, height=total / (2 * len(checked))
        )
        for index, (name, frames) in enumerate(checked.items()):
            first = 2 * index * (count + 1)
            above = panels[first : first + count + 1]
            below = panels[first + count + 1 : first + 2 * (count + 1)]
            _draw_model(above[:-1], below[:-1], frames, bounds)
            above[0].set_ylabel(f"{name}\ndensity" if name else "density")
            below[0].set_ylabel(f"{name}\nsamples" if name else "samples")
            _draw_scale(above[-1], above[0].images[0], [density for _, density, _ in frames])
            draw_points(below[-1], points, bounds, color=COLORS[0], s=1.0)
            bare(below[-1])
            # At the side: above, it would push the two rows of the model apart.
            below[-1].yaxis.set_label_position("right")
            below[-1].set_ylabel("target")
        figure.suptitle(title)
    return figure


def _draw_model(
    above: Sequence[Axes],
    below: Sequence[Axes],
    frames: Sequence[tuple[float | str, Array, Array]],
    bounds: Bounds,
) -> None:
    limit = colour_limit([density for _, density, _ in frames])
    for upper, lower, (moment, density, samples) in zip(above, below, frames, strict=True):
        draw_density(upper, density, bounds, limit)
        upper.set_title(name_of_moment(moment), fontsize="medium")
        draw_points(lower, samples, bounds, color=COLORS[1], s=1.0)
        bare(upper)
        bare(lower)


def _draw_scale(axes: Axes, image: AxesImage, densities: Sequence[Array]) -> None:
    """Draw the colour scale of a row at the edge of a panel that is otherwise empty."""
    axes.set_axis_off()
    clipped = max(density.max() for density in densities) > image.norm.vmax
    bar = axes.figure.colorbar(
        image,
        cax=axes.inset_axes((0.0, 0.0, 0.06, 1.0)),
        extend="max" if clipped else "neither",
        ticks=MaxNLocator(4),
    )
    bar.ax.tick_params(labelsize="small")
    bar.ax.grid(visible=False)
