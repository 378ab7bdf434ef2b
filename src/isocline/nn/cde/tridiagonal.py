"""Many tridiagonal systems at once, by parallel cyclic reduction."""

from __future__ import annotations

from torch import Tensor

from .knots import earlier, later

__all__ = ["solve_tridiagonal"]


def solve_tridiagonal(lower: Tensor, diagonal: Tensor, upper: Tensor, right: Tensor) -> Tensor:
    """Solve ``lower_i x_{i-1} + diagonal_i x_i + upper_i x_{i+1} = right_i`` along axis 1.

    Each round takes the neighbours out of all equations together (Hockney and Jesshope 1981), so
    log2(rows) rounds of whole-tensor arithmetic do what elimination does row by row. Without a
    choice of pivots it is stable where each diagonal outweighs its row, as that of a spline does.

    Args:
        lower, diagonal, upper, right: ``(batch, rows, ...)``; `lower` in the first row and `upper`
            in the last must be 0.

    Returns:
        x, shaped as `right`.
    """
    a, c, r = lower / diagonal, upper / diagonal, right / diagonal
    by = 1
    while by < right.shape[1]:
        a_before, c_before, r_before = (earlier(x, by) for x in (a, c, r))
        a_after, c_after, r_after = (later(x, by) for x in (a, c, r))
        pivot = 1 - a * c_before - c * a_after
        r = (r - a * r_before - c * r_after) / pivot
        a, c = -a * a_before / pivot, -c * c_after / pivot
        by *= 2
    return r
