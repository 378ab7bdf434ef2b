"""Weights of the Adams formulas for uneven steps, and of their interpolants.

Times are measured in steps: a step goes from 0 to 1, and its slopes belong to the nodes
z = (1, x_0, x_1, ...), of which x_0 = 0 > x_1 > x_2 ... are its history. The polynomial through
slopes is, in Newton's form, a sum of products (s - z_0) ... (s - z_(m-1)) times divided
differences; a formula is its integral over the step (Hairer, Norsett and Wanner, "Solving
Ordinary Differential Equations I" (1993), section III.5).

The nodes fall, and none lies inside the step. So the products keep their sign over it, and the
terms that make up the weight of a slope share one: nothing cancels, and however uneven the steps
a weight is right to a few units in its last place. (Only that of the slope at 1 is one less a sum
of such terms.) All of it is a handful of operations on small tensors on the host, through which
autograd can go where a node carries a graph.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Shape", "interpolant", "known_weights", "resampled", "weights"]

_GAUSS = (
    (0.5, 0.2089795918367347),
    (0.7029225756886985, 0.1909150252525595),
    (0.8707655927996972, 0.1398526957446384),
    (0.9745539561713793, 0.06474248308443485),
)
"""Nodes at and above 1/2, and weights, of Gauss and Legendre's formula on [0, 1] with seven."""


class Shape(NamedTuple):
    """Which formulas a step needs.

    Attributes:
        k: how many nodes of the history the predictor uses: its order.
        corrected: how many of them the corrector uses besides 1: one less than its order.
        orders: those of the implicit formulas whose errors are estimated: how far the formula of
            the next order is from them. Up to order k the estimate takes the slope at 1, as
            the predictor gives it; that of order k + 1, for which this is not good enough, has
            k + 2 nodes of the history instead.
    """

    k: int
    corrected: int
    orders: tuple[int, ...] = ()


class _Table(NamedTuple):
    """What the weights of one shape are put together from.

    Attributes:
        terms: for each row and node, which of the `moments` goes with its divided difference.
        constant, slope: the factor of each weight is constant + slope z, shape (rows, 1).
    """

    terms: Tensor
    constant: Tensor
    slope: Tensor


def weights(z: Tensor, shape: Shape) -> Tensor:
    """Rows of weights for a step of length 1; its slopes are to be summed with h times them.

    Args:
        z: the nodes, falling from 1 and 0: float64, on the host.
        shape: which formulas.

    Returns:
        Weights over z, shape (2 + errors, nodes): the predictor, which gives none to the slope
        at 1, the corrector, and an estimate for each of the orders asked for.
    """
    gauss, table = _gauss(), _table(shape, z.shape[0])
    # N_1 ... N_k at Gauss's nodes; integrals of N_1 ..., then of (s - 1) N_1 ...
    moments = gauss.weights @ (gauss.nodes - z[1 : shape.k + 1]).cumprod(1)
    rows = torch.cat([gauss.first, moments.view(-1)])[table.terms] @ _divided(z)
    # A difference over x_0 ... x_m is the one over 1, x_0 ... x_m with (z_j - 1) in each weight.
    return rows * torch.addcmul(table.constant, table.slope, z)


@lru_cache(maxsize=256)
def known_weights(z: tuple[float, ...], shape: Shape) -> Tensor:
    """The same for nodes that come again and again, as constant steps bring them."""
    with torch.inference_mode(False):  # what is kept must serve solves outside of it too
        return weights(torch.tensor(z, dtype=torch.float64), shape)


def interpolant(z: Tensor) -> Tensor:
    """Weights of a continuous extension that is differentiable where steps meet.

    The polynomial through the slopes at all z is integrated from 0. It need not end where the step
    ends: what it misses is added in proportion to 3 theta^2 - 2 theta^3.

    Args:
        z: the nodes.

    Returns:
        Coefficients of theta, theta^2, ... for the slopes at z, and for the mean slope
        (y1 - y0) / h, shape (nodes + 1, degree), float64 on the host.
    """
    degree = max(z.shape[0], 3)
    row = torch.cat([z.new_ones(1), z.new_zeros(degree - 1)])
    newton = [row]
    for node in z[:-1]:
        row = row.roll(1) - node * row  # times (s - node): the last coefficient is still zero
        newton.append(row)
    powers = torch.arange(1, degree + 1, dtype=torch.float64)
    integrals = _divided(z).t() @ (torch.stack(newton) / powers)
    blend = torch.zeros(degree, dtype=torch.float64)
    blend[1], blend[2] = 3.0, -2.0
    return torch.cat([integrals - integrals.sum(1, keepdim=True) * blend, blend[None]])


def resampled(z: Tensor, at: Tensor) -> Tensor:
    """What the polynomial through slopes at the nodes z is at other times, by the slopes.

    Returns:
        A matrix of shape (times, nodes).
    """
    products = (at.unsqueeze(1) - z[:-1]).cumprod(1)
    return torch.cat([torch.ones_like(at).unsqueeze(1), products], 1) @ _divided(z)


def _divided(z: Tensor) -> Tensor:
    """Row m holds the weights of f(z_0), f(z_1), ... in f[z_0 ... z_m]."""
    gaps = torch.sub(z.unsqueeze(1), z).fill_diagonal_(1.0)
    return gaps.cumprod(1).reciprocal().triu().t()


class _Gauss(NamedTuple):
    """Gauss's nodes s as a column; rows w and w (s - 1); what leads the moments.

    These are nothing, for a blank, and the integrals of 1 and of s - 1.
    """

    nodes: Tensor
    weights: Tensor
    first: Tensor


@cache
def _gauss() -> _Gauss:
    with torch.inference_mode(False):
        half = torch.tensor(_GAUSS, dtype=torch.float64)
        s = torch.cat([1.0 - half[1:, 0].flip(0), half[:, 0]])
        w = torch.cat([half[1:, 1].flip(0), half[:, 1]])
        first = torch.tensor([0.0, 1.0, -0.5], dtype=torch.float64)
        return _Gauss(s.unsqueeze(1), torch.stack([w, w * (s - 1.0)]), first)


@cache
def _table(shape: Shape, nodes: int) -> _Table:
    k, corrected, orders = shape
    # Integrals of 1, N_1 ... N_(k-1), and of 1, (s - 1), (s - 1) N_1, ... (s - 1) N_k.
    areas = [1, *range(3, 2 + k)]
    humps = [1, 2, *range(3 + k, 3 + 2 * k)]
    blank = [0] * nodes
    predictor = [0, *areas, *blank][:nodes]
    corrector = [*humps[: corrected + 1], *blank][:nodes]
    rows = [predictor, corrector]
    for m in orders:
        row = blank.copy()
        row[m if m <= k else m + 1] = humps[m]
        rows.append(row)
    without_one = [True, False, *(m > k for m in orders)]
    factors = [(-1.0, 1.0) if without else (1.0, 0.0) for without in without_one]
    with torch.inference_mode(False):
        constant, slope = torch.tensor(factors, dtype=torch.float64).t().unsqueeze(-1)
        return _Table(torch.tensor(rows), constant, slope)
