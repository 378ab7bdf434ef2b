"""Zeros of many functions at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["roots"]

_MOST = 80
"""Iterations: bisection alone halves a bracket to nothing in fewer."""


def roots(
    f: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, fa: Tensor, fb: Tensor, tolerance: Tensor
) -> tuple[Tensor, Tensor]:
    """Where functions of opposite signs at a and b pass through zero, by Chandrupatla's method.

    As `roots.root` finds one: inverse quadratic interpolation where the last three points allow it,
    bisection elsewhere (1997, "A new hybrid quadratic/bisection algorithm for finding the zero of a
    nonlinear function without using derivatives", Adv. Eng. Softw. 28). No number depends on the
    others.

    Args:
        f: all functions at a point each, shape (m,).
        a, b: ends of the brackets.
        fa, fb: values there.
        tolerance: lengths of bracket that are good enough.

    Returns:
        The points at which |f| was least, and f there.
    """
    x1, f1, x2, f2 = a, fa, b, fb
    best, least = torch.where(fb.abs() < fa.abs(), b, a), torch.minimum(fa.abs(), fb.abs())
    value = torch.where(fb.abs() < fa.abs(), fb, fa)
    part = torch.full_like(a, 0.5)
    for _ in range(_MOST):
        x = x1 + part * (x2 - x1)
        fx = f(x)
        better = fx.abs() < least
        best, value = torch.where(better, x, best), torch.where(better, fx, value)
        least = torch.where(better, fx.abs(), least)
        same = fx.sign() == f1.sign()
        x3, f3 = torch.where(same, x1, x2), torch.where(same, f1, f2)
        x2, f2 = torch.where(same, x2, x1), torch.where(same, f2, f1)
        x1, f1 = x, fx
        enough = tolerance / (x2 - x1).abs()
        if bool(((enough > 0.5) | (least == 0.0)).all()):
            break
        xi, phi = (x1 - x2) / (x3 - x2), (f1 - f2) / (f3 - f2)
        smooth = (phi * phi < xi) & ((1 - phi) ** 2 < 1 - xi)
        quadratic = f1 / (f2 - f1) * f3 / (f2 - f3)
        quadratic = quadratic + (x3 - x1) / (x2 - x1) * f1 / (f3 - f1) * f2 / (f3 - f2)
        part = torch.where(smooth, quadratic, 0.5).nan_to_num(0.5)
        part = torch.maximum(torch.minimum(part, 1 - enough), enough).clamp(0.0, 1.0)
    return best, value
