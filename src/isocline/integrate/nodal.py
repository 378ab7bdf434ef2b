"""Polynomials by their values at nodes, which are states: so interpolants are kept as output."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["NODAL_CENTRE", "Basis", "lagrange"]

NODAL_CENTRE = 0.5


class Basis(NamedTuple):
    """Polynomials of degree D on [0, 1] by their values at D + 1 nodes, of which 0 is the first.

    Attributes:
        nodes: Chebyshev's, ends included, shape (D + 1,), float64 on the host.
        weights: row j has the coefficients of b_j = theta sum_m w_jm (theta - 1/2)^m, which is 1
            at node j + 1 and 0 at the others; shape (D, D), as in `DensePiece`.
    """

    nodes: Tensor
    weights: Tensor


@cache
def lagrange(degree: int) -> Basis:
    """The basis of this degree, at least 1."""
    with torch.inference_mode(False):  # what is kept must serve solves outside of it too
        nodes = (1 - torch.cos(torch.pi * torch.arange(degree + 1).double() / degree)) / 2
        inner = nodes[1:, None]
        powers = inner * (inner - NODAL_CENTRE) ** torch.arange(degree)
        return Basis(nodes, torch.linalg.inv(powers).t().contiguous())
