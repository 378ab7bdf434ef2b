"""What the data sets in the plane share."""

from __future__ import annotations

from torch import Tensor

from ..errors import InputError

__all__ = ["Bounds", "check_points"]

Bounds = tuple[float, float, float, float]
"""A rectangle for plots, in Matplotlib's order of an extent: left, right, bottom, top."""


def check_points(points: Tensor, argument: str) -> None:
    """Refuse anything but floating-point points of the plane.

    Raises:
        InputError: If the last dimension is not two, or the values are not real floats.
    """
    if points.dim() == 0 or points.shape[-1] != 2 or not points.is_floating_point():
        raise InputError(
            argument,
            f"{points.dtype} of shape {tuple(points.shape)}",
            "real floats of shape (..., 2), the points of the plane",
        )
