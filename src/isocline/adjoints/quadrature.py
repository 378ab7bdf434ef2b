"""Gauss-Legendre quadrature."""

from __future__ import annotations

from functools import cache

import torch

__all__ = ["gauss_legendre"]


@cache
def gauss_legendre(count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes and weights on [0, 1], exact for polynomials up to degree 2 count - 1.

    By the eigenvalues of the Jacobi matrix of Legendre's polynomials (Golub and Welsch 1969,
    "Calculation of Gauss quadrature rules", Math. Comp. 23).
    """
    k = torch.arange(1, count, dtype=torch.float64)
    beside = k / (4 * k**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    nodes, weights = (1 + values) / 2, vectors[0] ** 2
    return tuple(nodes.tolist()), tuple(weights.tolist())
