"""Zeros of a scalar function of time, each evaluation of which is dear."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["dip", "root"]

Function = Callable[[float], float]


def root(
    f: Function, a: float, b: float, fa: float, fb: float, tolerance: float
) -> tuple[float, float]:
    """Where `f`, of opposite signs at a and b, passes through zero.

    Chandrupatla's method (1997, "A new hybrid quadratic/bisection algorithm for finding the zero
    of a nonlinear function without using derivatives", Adv. Eng. Softw. 28): inverse quadratic
    interpolation where the last three points allow it, bisection elsewhere.

    Args:
        f: the function.
        a, b: ends of the bracket, in either order.
        fa, fb: its values there, of opposite signs, or one of them zero.
        tolerance: the length of bracket that is good enough; never finer than rounding.

    Returns:
        The end of the last bracket at which |f| is less, and f there.
    """
    c, fc, part = a, fa, 0.5
    while fa != 0.0 and fb != 0.0:
        resolved = max(tolerance, 4.0 * math.ulp(max(abs(a), abs(b))))
        if abs(b - a) <= resolved:
            break
        t = a + part * (b - a)
        ft = f(t)
        if math.copysign(1.0, ft) == math.copysign(1.0, fa):
            c, fc, a, fa = a, fa, t, ft
        else:
            c, b, a, fc, fb, fa = b, a, t, fb, fa, ft
        part = _next_part(a, b, c, fa, fb, fc, 0.5 * resolved / abs(b - a))
    return (a, fa) if abs(fa) <= abs(fb) else (b, fb)


def _next_part(
    a: float, b: float, c: float, fa: float, fb: float, fc: float, least: float
) -> float:
    """How far from a to b to look next."""
    if least >= 0.5 or c == b or fc in (fa, fb):
        return 0.5
    xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
    if not (phi**2 < xi and (1.0 - phi) ** 2 < 1.0 - xi):
        return 0.5
    part = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
    return min(max(part, least), 1.0 - least)


def dip(f: Function, a: float, b: float, best: float, steps: int = 24) -> float | None:
    """Where `f`, positive at a and b, is zero or negative between them, if it comes to that.

    Golden-section search for the minimum from the guess `best`, stopped as soon as f <= 0.

    Returns:
        Such a time, or None if the minimum is positive.
    """
    ratio = 0.5 * (3.0 - math.sqrt(5.0))
    value = f(best)
    for _ in range(steps):
        if value <= 0.0:
            return best
        wider = b if abs(b - best) > abs(best - a) else a
        t = best + ratio * (wider - best)
        ft = f(t)
        if ft < value:
            a, b = (best, wider) if wider == b else (wider, best)
            best, value = t, ft
        elif wider == b:
            b = t
        else:
            a = t
    return best if value <= 0.0 else None
