"""Paths through the observations of irregular series, for a CDE to be driven by.

Each channel of each series has knots of its own: where it was observed. Before the first of them
and after the last, the channel holds its value; a channel that was never observed is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...irregular import IrregularBatch
from .knots import Knots, Rows, earlier, later, rows_of
from .path import CubicPath
from .tridiagonal import solve_tridiagonal

__all__ = ["hermite", "linear", "natural_cubic"]


def hermite(batch: IrregularBatch, *, time: bool = True, intensity: bool = False) -> CubicPath:
    """Cubic Hermite splines with backward differences (Morrill et al. 2021, "Neural CDEs online").

    The derivative at a knot is that of the chord from the knot before; at the first knot, that of
    the first chord. So a path is continuously differentiable between its first and last knot, and
    what comes later changes no more than the piece it ends.

    Args:
        batch: The series; rows at equal times count as one, with the mean of their values.
        time: Put the time in front, as channel 0.
        intensity: Put the running counts of each feature's observations behind.

    Returns:
        Paths in ``time + features (+ features)`` channels, over the times of each series' rows, in
        the wider type of times and values. Gradients flow to both.
    """
    rows = rows_of(batch, time, intensity)
    knots = Knots.of(rows)
    before = earlier(knots.slope)
    start = torch.cat([knots.slope[:, :1], before[:, 1:]], dim=1)
    return _path(rows, knots, start, knots.slope)


def natural_cubic(
    batch: IrregularBatch, *, time: bool = True, intensity: bool = False
) -> CubicPath:
    """Natural cubic splines (Kidger et al. 2020, "Neural CDEs for irregular time series").

    Twice continuously differentiable between a channel's first and last knot, where the second
    derivative is 0. Every observation changes all of the path.

    Args:
        batch, time, intensity: As for `hermite`.

    Returns:
        As `hermite` does.
    """
    rows = rows_of(batch, time, intensity)
    knots = Knots.of(rows)
    # Second derivatives M: those at interior knots follow from slopes that fit, the others are 0.
    inner = knots.between & earlier(knots.between)
    gap_before = earlier(knots.gap)
    bend = solve_tridiagonal(
        gap_before.where(inner, 0.0),
        (2 * (gap_before + knots.gap)).where(inner, 1.0),
        knots.gap.where(inner, 0.0),
        (6 * (knots.slope - earlier(knots.slope))).where(inner, 0.0),
    )
    bend_after = later(bend)
    start = knots.slope - knots.gap * (2 * bend + bend_after) / 6
    end = knots.slope + knots.gap * (bend + 2 * bend_after) / 6
    return _path(rows, knots, start, end)


def linear(batch: IrregularBatch, *, time: bool = True, intensity: bool = False) -> CubicPath:
    """Straight lines. Their derivative jumps at every knot, which costs an adaptive solver steps.

    Args:
        batch, time, intensity: As for `hermite`.

    Returns:
        As `hermite` does.
    """
    rows = rows_of(batch, time, intensity)
    knots = Knots.of(rows)
    return _path(rows, knots, knots.slope, knots.slope)


def _path(rows: Rows, knots: Knots, start: Tensor, end: Tensor) -> CubicPath:
    """The path whose piece after each knot has these derivatives at its start and its end."""
    gap, slope = knots.gap, knots.slope
    second = (3 * slope - 2 * start - end) / gap
    third = (start + end - 2 * slope) / gap**2
    zero = torch.zeros_like(slope)
    first, second, third = (x.where(knots.between, zero) for x in (start, second, third))

    # All channels of a series share the knots of its rows. A row lies in the piece that follows the
    # knot at or before it, and there the polynomial is written in the time since the row.
    piece = rows.mask.cumsum(1) - 1
    early = piece < 0
    piece = piece.clamp(min=0)
    x, b, c, d, begin = (
        table.gather(1, piece) for table in (knots.values, first, second, third, knots.times)
    )
    since = (rows.times.unsqueeze(-1) - begin).where(~early, 0.0)
    coefficients = torch.stack(
        [
            x + since * (b + since * (c + since * d)),
            (b + since * (2 * c + since * 3 * d)).where(~early, 0.0),
            (c + 3 * since * d).where(~early, 0.0),
            d.where(~early, 0.0),
        ],
        dim=2,
    )
    if not rows.times.shape[1]:  # no series has a row: one knot, one constant piece
        batch, _, powers, channels = coefficients.shape
        nothing = coefficients.new_zeros(batch, 1, powers, channels)
        return CubicPath(rows.times.new_zeros(batch, 1), nothing, rows.lengths)
    pieces = max(rows.times.shape[1] - 1, 1)
    last = (rows.lengths - 2).clamp(min=0)
    return CubicPath(rows.times, coefficients[:, :pieces], last)
