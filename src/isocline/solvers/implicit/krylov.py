"""GMRES, for linear systems of which there are only products."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["gmres"]


def gmres(product: Callable[[Tensor], Tensor], b: Tensor, accuracy: float, limit: int) -> Tensor:
    """X with |b - A x| <= accuracy |b|, or the best after `limit` products.

    The generalised minimal residual method of Saad and Schultz (1986), without restarts.

    Args:
        product: the map x -> A x of tensors like `b`.
        b: right-hand side, of any shape.
        accuracy: relative, in the Euclidean norm.
        limit: how many products to take at most.
    """
    length = torch.linalg.vector_norm(b)
    if not length > 0:
        return torch.zeros_like(b)
    basis = [b.flatten() / length]
    rotations: list[tuple[float, float]] = []
    columns: list[list[float]] = []
    rest = [1.0]
    for _ in range(min(limit, b.numel())):
        vectors = torch.stack(basis)
        w = product(basis[-1].view_as(b)).flatten()
        along = vectors @ w
        w = w - along @ vectors
        again = vectors @ w  # once more, for rounding leaves the vectors not quite orthogonal
        w = w - again @ vectors
        left = torch.linalg.vector_norm(w)
        column = [*(along + again).tolist(), left.item()]
        if not all(map(math.isfinite, column)):
            return torch.full_like(b, math.nan)
        columns.append(_rotated(column, rotations, rest))
        if abs(rest[-1]) <= accuracy or column[-1] == 0.0:
            break
        basis.append(w / left)
    weights = b.new_tensor(_back_substituted(columns, rest))
    found: Tensor = length * (weights @ torch.stack(basis[: len(columns)]))
    return found.view_as(b)


def _rotated(
    column: list[float], rotations: list[tuple[float, float]], rest: list[float]
) -> list[float]:
    """A column of the Hessenberg matrix as one of a triangular matrix, by Givens rotations.

    The new rotation is appended to `rotations`, and applied to the right-hand side `rest`.
    """
    for i, (c, s) in enumerate(rotations):
        column[i], column[i + 1] = (
            c * column[i] + s * column[i + 1],
            c * column[i + 1] - s * column[i],
        )
    *head, top, bottom = column
    length = math.hypot(top, bottom)
    c, s = (top / length, bottom / length) if length else (1.0, 0.0)
    rotations.append((c, s))
    last = rest.pop()
    rest += [c * last, -s * last]
    return [*head, length]


def _back_substituted(columns: list[list[float]], rest: list[float]) -> list[float]:
    """The solution of a triangular system; a column that is singular gets no weight."""
    weights = [0.0] * len(columns)
    for i in reversed(range(len(columns))):
        value = rest[i] - sum(columns[j][i] * weights[j] for j in range(i + 1, len(columns)))
        weights[i] = value / columns[i][i] if columns[i][i] else 0.0
    return weights
