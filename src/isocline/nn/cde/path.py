"""A batch of piecewise cubic paths, each with knots of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

__all__ = ["CubicPath", "slope_at"]


@dataclass(frozen=True)
class CubicPath:
    """Piecewise cubic paths with values in ``channels`` dimensions, one for each series.

    Outside its own span a path stands still. At a knot its derivative is that of the piece which
    begins there, and at the last knot that of the last piece.

    Attributes:
        knots: ``(batch, knots)``, rising; at least one. Beyond a series' last knot they repeat it.
        coefficients: ``(batch, pieces, 4, channels)``, one piece between two knots, or a single
            constant one: the powers 0 to 3 of the time since the piece's first knot.
        last: int64, ``(batch,)``, the index of each series' last piece.
    """

    knots: Tensor
    coefficients: Tensor
    last: Tensor

    def __len__(self) -> int:
        return self.knots.shape[0]

    @property
    def channels(self) -> int:
        """Dimensions of the paths' values."""
        return self.coefficients.shape[-1]

    @property
    def start(self) -> Tensor:
        """Where each path begins, ``(batch,)``."""
        return self.knots[:, 0]

    @property
    def end(self) -> Tensor:
        """Where each path ends, ``(batch,)``."""
        return self.knots[:, -1]

    @property
    def initial(self) -> Tensor:
        """Values at the start of each path, ``(batch, channels)``."""
        return self.coefficients[:, 0, 0]

    def at(self, t: Tensor) -> Tensor:
        """Values at `t`, 0-d or ``(batch,)``: ``(batch, channels)``."""
        t = torch.minimum(torch.maximum(t, self.start), self.end)
        since, (x, first, second, third) = _look_up(t, self.knots, self.coefficients, self.last)
        return x + since * (first + since * (second + since * third))

    def derivative(self, t: Tensor) -> Tensor:
        """Derivatives at `t`, 0-d or ``(batch,)``: ``(batch, channels)``; 0 outside the span."""
        within = (t >= self.start) & (t <= self.end)
        t = torch.minimum(torch.maximum(t, self.start), self.end)
        slope = slope_at(t, self.knots, self.slopes(), self.last)
        return slope.where(within.unsqueeze(-1), 0.0)

    def slopes(self) -> Tensor:
        """The coefficients of the derivative, ``(batch, pieces, 3, channels)``, for `slope_at`."""
        power = torch.arange(1, 4, dtype=self.coefficients.dtype, device=self.knots.device)
        return self.coefficients[:, :, 1:] * power.unsqueeze(-1)

    def paced(self) -> CubicPath:
        """The same curves, each run through from time 0 to time 1.

        A path without length keeps its one value; all its knots are 0.
        """
        span = self.end - self.start
        unit = span.where(span > 0, 1.0)
        knots = (self.knots - self.start.unsqueeze(1)) / unit.unsqueeze(1)
        power = torch.arange(4, device=self.knots.device)
        scale = (span.unsqueeze(1) ** power)[:, None, :, None]
        return CubicPath(knots, self.coefficients * scale, self.last)

    def pace(self, t: Tensor) -> Tensor:
        """Where `t`, ``(times,)`` or ``(batch, times)``, lies in the span: ``(batch, times)``.

        0 at the start or before, 1 at the end or beyond.
        """
        start, span = self.start.unsqueeze(1), (self.end - self.start).unsqueeze(1)
        return ((t - start) / span.where(span > 0, 1.0)).clamp(0.0, 1.0)

    def refined(self, times: Tensor) -> tuple[CubicPath, Tensor]:
        """The same curves with more knots.

        Args:
            times: ``(batch, times)``, in any order; those outside a path's span go to its end.

        Returns:
            The paths, and int64, ``(batch, times)``: which knot each of the times has become.
        """
        times = torch.minimum(torch.maximum(times, self.start[:, None]), self.end[:, None])
        knots, order = torch.cat([self.knots, times], dim=1).sort(dim=1, stable=True)
        piece = torch.searchsorted(self.knots.contiguous(), knots[:, :-1].contiguous(), right=True)
        piece = torch.minimum(piece - 1, self.last.unsqueeze(1))
        series = torch.arange(len(knots), device=knots.device).unsqueeze(1)
        since = (knots[:, :-1] - self.knots.gather(1, piece)).unsqueeze(-1)
        x, b, c, d = self.coefficients[series, piece].unbind(2)
        moved = [
            x + since * (b + since * (c + since * d)),
            b + since * (2 * c + since * 3 * d),
            c + 3 * since * d,
            d,
        ]
        place = order.argsort(dim=1)[:, self.knots.shape[1] :]
        last = (self.last + times.shape[1]).clamp(max=max(knots.shape[1] - 2, 0))
        return CubicPath(knots, torch.stack(moved, dim=2), last), place

    def to(self, dtype: torch.dtype) -> Self:
        """The paths in another floating-point type."""
        return type(self)(self.knots.to(dtype), self.coefficients.to(dtype), self.last)


def slope_at(t: Tensor, knots: Tensor, slopes: Tensor, last: Tensor) -> Tensor:
    """Derivatives of paths, without a look at whether `t` lies within their spans.

    Args:
        t: 0-d or ``(batch,)``, within the spans.
        knots, last: As in `CubicPath`.
        slopes: From `CubicPath.slopes`.

    Returns:
        ``(batch, channels)``.
    """
    since, (first, second, third) = _look_up(t, knots, slopes, last)
    return first + since * (second + since * third)


def _look_up(
    t: Tensor, knots: Tensor, table: Tensor, last: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The time since the knot before `t`, ``(batch, 1)``, and that piece's entries in a table."""
    t = t.expand(len(knots)).unsqueeze(1)
    # Counting beats a search by bisection at the lengths of series, and takes any strides.
    piece = torch.minimum((knots.detach() <= t.detach()).sum(1) - 1, last).clamp(min=0)
    since = t - knots.gather(1, piece.unsqueeze(1))
    series = torch.arange(len(knots), device=knots.device)
    return since, table[series, piece].unbind(1)
