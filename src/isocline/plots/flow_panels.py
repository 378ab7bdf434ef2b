"""What the figures of flows share: checked arrays, and the drawing of one panel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.image import AxesImage
from torch import Tensor

from ..errors import InputError, InputTypeError

__all__ = [
    "Array",
    "Bounds",
    "FlowFrame",
    "Values",
    "as_array",
    "bare",
    "check_bounds",
    "check_density",
    "check_frames",
    "check_points",
    "check_values",
    "colour_limit",
    "draw_density",
    "draw_points",
    "grid_points",
    "height_over_width",
    "name_of_moment",
]

Values: TypeAlias = Tensor | npt.ArrayLike
Array: TypeAlias = npt.NDArray[np.float64]
# Left, right, bottom, top: the order of matplotlib's extent.
Bounds: TypeAlias = tuple[float, float, float, float]

COLOUR_MAP = "viridis"
# The brightest pixels that together hold this share of the mass may be clipped. A spike of a
# half-trained model, a few pixels wide, would otherwise leave all else dark.
CLIPPED_MASS = 0.02


class FlowFrame(NamedTuple):
    """One moment of a flow; any tuple of these three will do.

    Attributes:
        moment: The fraction of the time that has passed, in [0, 1], written as per cent; or a text
            that is written as it is, such as ``"K = 8"``.
        density: The density on a grid, (H, W), as `grid_points` lays it out.
        samples: Samples, (n, 2).
    """

    moment: float | str
    density: Values
    samples: Values


def grid_points(bounds: Bounds, size: int | tuple[int, int] = 200) -> Tensor:
    """The centres of the pixels at which the figures want a density.

    Row 0 is the lowest, column 0 the leftmost, so that
    ``flow.log_prob(grid.reshape(-1, 2)).exp().reshape(grid.shape[:2])`` is drawn the right way up.

    Args:
        bounds: Left, right, bottom, top.
        size: Rows and columns (H, W); one number for both.

    Returns:
        (H, W, 2): x and y of each pixel, in torch's default floating-point type.

    Raises:
        InputError: If the bounds are empty, or there are no pixels.
    """
    left, right, bottom, top = check_bounds(bounds)
    rows, columns = (size, size) if isinstance(size, int) else size
    if rows < 1 or columns < 1:
        raise InputError("size", str(size), "at least one row and one column")
    x = left + (right - left) * (torch.arange(columns, dtype=torch.float64) + 0.5) / columns
    y = bottom + (top - bottom) * (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    return points.to(torch.get_default_dtype())


def check_values(name: str, values: Values, dimensions: int) -> Array:
    """Give the values as an array of finite doubles on the host, or say what is wrong with them."""
    array = as_array(name, values)
    if array.ndim != dimensions or 0 in array.shape:
        raise InputError(name, f"shape {array.shape}", f"{dimensions} dimensions, none of them 0")
    if not np.isfinite(array).all():
        count = int(array.size - np.isfinite(array).sum())
        raise InputError(name, f"{count} values that are NaN or infinite", "finite numbers")
    return array


def as_array(name: str, values: Values) -> Array:
    """Give real values of any shape as an array of doubles on the host."""
    if isinstance(values, Tensor):
        if values.is_complex():
            raise InputTypeError(name, f"a tensor of {values.dtype}", "real numbers")
        array: npt.NDArray[Any] = values.detach().to("cpu", torch.float64).numpy()
    else:
        try:
            array = np.asarray(values)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputTypeError(name, f"no array ({error})", "a tensor or an array") from error
        if array.dtype.kind not in "biuf":
            raise InputTypeError(name, f"an array of {array.dtype}", "real numbers")
    return array.astype(np.float64)


def check_points(name: str, values: Values) -> Array:
    """Points in the plane, (n, 2)."""
    array = check_values(name, values, 2)
    if array.shape[1] != 2:
        raise InputError(name, f"shape {array.shape}", "points in the plane, (n, 2)")
    return array


def check_density(name: str, values: Values) -> Array:
    """A density on a grid, (H, W)."""
    array = check_values(name, values, 2)
    if array.min() < 0:
        raise InputError(
            name,
            f"values down to {array.min():.3g}",
            "a density, which is never negative",
            "Take `exp` of a log density.",
        )
    return array


def check_bounds(bounds: Bounds) -> Bounds:
    """Left, right, bottom, top: finite, and in order."""
    expected = "left < right and bottom < top, four finite numbers"
    try:
        left, right, bottom, top = map(float, bounds)
    except (TypeError, ValueError) as error:
        raise InputTypeError("bounds", repr(bounds), expected) from error
    if not (left < right and bottom < top and all(map(math.isfinite, (left, right, bottom, top)))):
        raise InputError("bounds", repr(bounds), expected)
    return left, right, bottom, top


def check_frames(name: str, frames: Sequence[FlowFrame]) -> list[tuple[float | str, Array, Array]]:
    """The frames with their arrays checked; at least one of them."""
    if len(frames) == 0:
        raise InputError(name, "no frames", "at least one")
    checked: list[tuple[float | str, Array, Array]] = []
    for index, frame in enumerate(frames):
        where = f"{name}[{index}]"
        try:
            moment, density, samples = frame
        except (TypeError, ValueError) as error:
            raise InputTypeError(
                where, type(frame).__name__, "a tuple (moment, density, samples)"
            ) from error
        if not isinstance(moment, str):
            moment = _fraction(f"{where}.moment", moment)
        checked.append(
            (
                moment,
                check_density(f"{where}.density", density),
                check_points(f"{where}.samples", samples),
            )
        )
    return checked


def _fraction(name: str, moment: float) -> float:
    fraction = float(check_values(name, moment, 0))
    # A solver's last time may be off by a rounding error.
    if not -1e-6 <= fraction <= 1 + 1e-6:
        raise InputError(
            name, str(fraction), "a fraction of the time, in [0, 1]", "Give other things as a text."
        )
    return fraction


def name_of_moment(moment: float | str) -> str:
    """A fraction as per cent, a text as it is."""
    return moment if isinstance(moment, str) else f"{100 * moment:.0f} %"


def height_over_width(bounds: Bounds) -> float:
    """The shape of a panel in which both coordinates have the same scale."""
    left, right, bottom, top = bounds
    return (top - bottom) / (right - left)


def colour_limit(densities: Sequence[Array]) -> float:
    """The end of a colour scale that these densities share."""
    return max(map(_level, densities)) or 1.0


def _level(density: Array) -> float:
    ordered = np.sort(density, axis=None)[::-1]
    mass = np.cumsum(ordered)
    return float(ordered[np.searchsorted(mass, CLIPPED_MASS * mass[-1])])


def draw_density(axes: Axes, density: Array, bounds: Bounds, limit: float) -> AxesImage:
    """Draw a density as an image; its colours run from 0 to `limit`."""
    axes.grid(visible=False)
    return axes.imshow(
        density,
        origin="lower",
        extent=bounds,
        aspect="equal",
        cmap=COLOUR_MAP,
        vmin=0.0,
        vmax=limit,
        interpolation="bilinear",
    )


def draw_points(axes: Axes, points: Array, bounds: Bounds, **look: Any) -> PathCollection:
    """Draw points, smaller and fainter the more there are of them."""
    count = len(points)
    look = {
        "s": float(np.clip(4e4 / count, 1.5, 12.0)),
        "alpha": float(np.clip(3e3 / count, 0.1, 0.8)),
        # In a vector format, ten thousand separate circles would be megabytes.
        "rasterized": True,
        "linewidths": 0,
        **look,
    }
    axes.set(xlim=bounds[:2], ylim=bounds[2:], aspect="equal")
    axes.grid(visible=False)
    return axes.scatter(points[:, 0], points[:, 1], **look)


def bare(axes: Axes) -> None:
    """Take the ticks away and frame the panel: for small panels that share their bounds."""
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, color="0.7", linewidth=0.6)
