"""Where in a step a function may pass through zero, from its values at a few points."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .roots import dip

__all__ = ["NODES", "Point", "fine", "suspects", "with_turns"]

NODES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where in a step conditions are looked at."""

_FINE = 64
"""Into how many parts the step is divided to look at the polynomial through the nodes."""

_NEAR = 0.05
"""A minimum of that polynomial below this part of the largest value is looked at itself."""

Point = tuple[float, float]
"""A part of a step from 0 to 1, and the value of a function there."""


def suspects(table: Tensor) -> list[int]:
    """Which columns of `table`, values at `NODES`, may pass through zero."""
    signs = table.sign()
    change = (signs[1:] != signs[:-1]).any(0)
    smooth = fine(table) * signs[0]
    inner = smooth[1:-1]
    low = (inner <= smooth[:-2]) & (inner <= smooth[2:]) & (inner < _NEAR * table.abs().amax(0))
    found: list[int] = (change | low.any(0)).nonzero().flatten().tolist()
    return found


def with_turns(at: Callable[[float], float], points: list[Point]) -> list[Point]:
    """Points so close that a continuous function changes sign at most once between two of them.

    That holds where the function is the polynomial through the points given. Where it is not,
    its minima are still looked for themselves near those of the polynomial.

    Args:
        at: the function.
        points: the values at `NODES`; the first may lie a little behind 0.
    """
    values = torch.tensor([value for _, value in points], dtype=torch.float64)
    near = _NEAR * values.abs().max().item()
    known = dict(points)
    first = points[0][0]
    turns = {max(part, first) for part in _turns(values)}
    known.update({part: at(part) for part in turns - known.keys()})
    path = sorted(known.items())
    found = list(path)
    for before, (part, value), after in zip(
        [path[0], *path], path, [*path[1:], path[-1]], strict=False
    ):
        around = min(before[1] * value, after[1] * value)  # positive where all signs are alike
        if part in turns and around >= value * value > 0.0 and abs(value) < near:
            a, b, sign = before[0], after[0], math.copysign(1.0, value)
            inside = min(0.5 / _FINE, 0.25 * (b - a))
            guess = min(max(part, a + inside), b - inside)
            low = dip(lambda s, sign=sign: sign * at(s), a, b, guess)  # type: ignore[misc]
            if low is not None:
                found.append((low, at(low)))
    return sorted(found)


def _turns(values: Tensor) -> list[float]:
    """Where the polynomial through values at `NODES` has a minimum or a maximum, roughly."""
    smooth = fine(values)
    left, right = smooth[:-2] - smooth[1:-1], smooth[2:] - smooth[1:-1]
    turns = (left * right >= 0.0) & ((left != 0.0) | (right != 0.0))
    return [index / _FINE for index in turns.nonzero().flatten().tolist()]


def fine(values: Tensor) -> Tensor:
    """The polynomial through values at `NODES`, from one part before the step to one after it."""
    return _INTERPOLATION @ values


def _interpolation() -> Tensor:
    """Lagrange's polynomials of `NODES` at the fine points, shape (points, nodes)."""
    x = torch.arange(-1, _FINE + 2, dtype=torch.float64)[:, None, None] / _FINE
    nodes = torch.tensor(NODES, dtype=torch.float64)
    others = torch.stack([nodes[nodes != node] for node in nodes])  # shape (nodes, nodes - 1)
    factors = (x - others) / (nodes[:, None] - others)
    return factors.prod(-1)


_INTERPOLATION = _interpolation()
