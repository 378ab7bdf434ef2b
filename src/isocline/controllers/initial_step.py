"""The first step's length, after Hairer, Nørsett and Wanner (1993), section II.4."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..transforms import everywhere
from .norms import Norm

__all__ = ["initial_step"]


def initial_step(
    evaluate: Callable[[float, Tensor], Tensor],
    t0: float,
    y0: Tensor,
    f0: Tensor,
    span: float,
    error_order: int,
    scale: Tensor,
    norm: Norm,
) -> float:
    """A step for which an Euler step's error is about a hundredth of the tolerance.

    Args:
        evaluate: the field, `(t, y) -> dy/dt`; called once, within the span.
        t0: start.
        y0, f0: packed state and its derivative at t0, shape (N,).
        span: t1 - t0, signed: the probe never leaves it.
        error_order: order of the error estimate.
        scale: atol + rtol * |y0|, shape (N,).
        norm: the error norm.

    Returns:
        A positive length, at most |span|. NaN where the field is not finite.
    """
    d0, d1 = torch.stack([norm(y0 / scale), norm(f0 / scale)]).tolist()
    if not math.isfinite(d0 + d1):
        # A norm may overflow where what it measures is finite: start with a step that is safe.
        return 1e-6 * abs(span) if everywhere(f0.isfinite()) else math.nan
    h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
    h0 = min(h0, abs(span))
    probe = t0 + math.copysign(h0, span) if h0 < abs(span) else t0 + span
    y1 = torch.add(y0, f0, alpha=math.copysign(h0, span))
    d2 = norm((evaluate(probe, y1) - f0) / scale).item() / h0
    steepest = max(d1, d2)
    if not math.isfinite(steepest):
        # The probe left the field's domain: let the controller find its way from a tiny step.
        return h0 * 1e-3
    h1 = max(1e-6, h0 * 1e-3) if steepest <= 1e-15 else (0.01 / steepest) ** (1.0 / error_order)
    return min(100 * h0, h1, abs(span))
