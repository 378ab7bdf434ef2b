"""What the flow suites share: every field, divergence, regulariser and adjoint, and known facts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

import isocline as ic
from isocline.nn import (
    CNF,
    ClosedForm,
    ConcatConv2d,
    ConcatSquashField,
    ExactDivergence,
    HamiltonianField,
    Hutchinson,
    HutchPlusPlus,
    JacobianNorm,
    KineticEnergy,
    MLPField,
    PlanarField,
)

DTYPE = torch.float64
TIGHT: dict[str, Any] = {"solver": "dop853", "rtol": 1e-9, "atol": 1e-9}
# Equal steps: a smooth function of all inputs, whose differences carry no noise of step sizes.
STEADY: dict[str, Any] = {"solver": "rk4", "dt0": 0.35}


# --- fields --------------------------------------------------------------------------------------


class ConvNet(nn.Module):
    """A smooth convolutional field on small images."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConcatConv2d(channels, 4, 3, padding=1)
        self.last = ConcatConv2d(4, channels, 3, padding=1)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return self.last(t, torch.tanh(self.first(t, z)))


class Affine(nn.Module):
    """dz/dt = pace(t) A z + b: linear, hence Gaussian to Gaussian; pace is 1 where not given."""

    def __init__(self, A: Tensor, b: Tensor, pace: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.A, self.b, self.pace = nn.Parameter(A), nn.Parameter(b), pace

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        pace = 1.0 if self.pace is None else self.pace(t)
        return pace * (z @ self.A.t()) + self.b

    def flow(self, span: float) -> tuple[Tensor, Tensor]:
        """P and q of the map z -> P z + q after `span`, by one matrix exponential."""
        d = len(self.b)
        block = torch.zeros(d + 1, d + 1, dtype=DTYPE)
        block[:d, :d], block[:d, d] = self.A.detach(), self.b.detach()
        grown = torch.linalg.matrix_exp(span * block)
        return grown[:d, :d], grown[:d, d]

    def carried(self, span: float, mean: Tensor, covariance: Tensor) -> MultivariateNormal:
        """What the normal of that mean and covariance becomes."""
        P, q = self.flow(span)
        return MultivariateNormal(P @ mean + q, P @ covariance @ P.t())


def affine(d: int = 3, pace: Callable[[Tensor], Tensor] | None = None) -> Affine:
    return Affine(0.8 * torch.randn(d, d, dtype=DTYPE), torch.randn(d, dtype=DTYPE), pace)


@dataclass(frozen=True)
class FieldCase:
    """A way to make a field, and what it is over."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    context: int = 0
    gain: float = 2.0  # of all weights, so that the density ends up far from the base

    def field(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        field = self.make().to(DTYPE)
        with torch.no_grad():
            for parameter in field.parameters():
                parameter.mul_(self.gain)
        return field

    def flow(self, seed: int = 0, **settings: Any) -> CNF:
        return CNF(self.field(seed), self.shape, **{**TIGHT, **settings}).to(DTYPE)

    def points(self, *batch: int, seed: int = 1) -> Tensor:
        return torch.randn(
            *batch, *self.shape, dtype=DTYPE, generator=torch.Generator().manual_seed(seed)
        )

    def contexts(self, *batch: int, seed: int = 2) -> tuple[Tensor, ...]:
        """Arguments after the state: a context, or none."""
        if not self.context:
            return ()
        generator = torch.Generator().manual_seed(seed)
        return (torch.randn(*batch, self.context, dtype=DTYPE, generator=generator),)


FIELDS: dict[str, FieldCase] = {
    "planar": FieldCase(lambda: PlanarField(2, units=3, hidden=4), (2,), gain=4.0),
    "planar4": FieldCase(lambda: PlanarField(4, units=3, hidden=4), (4,)),
    "concat_squash": FieldCase(lambda: ConcatSquashField(2, 6, depth=1), (2,)),
    "softplus": FieldCase(
        lambda: ConcatSquashField(3, 4, depth=2, activation="softplus"), (3,), gain=1.5
    ),
    "conditional": FieldCase(lambda: ConcatSquashField(2, 6, depth=1, context=3), (2,), context=3),
    "hamiltonian": FieldCase(lambda: HamiltonianField(4, hidden=5), (4,)),
    "mlp": FieldCase(lambda: MLPField(2, hidden=6, depth=1), (2,)),
    "timeless": FieldCase(lambda: MLPField(5, hidden=6, depth=1, time=False), (5,), gain=1.5),
    "images": FieldCase(lambda: ConvNet(3), (3, 4, 4)),
    "affine": FieldCase(affine, (3,), gain=1.0),
}
PIXELS = FieldCase(lambda: ConvNet(1), (1, 2, 2))
"""Images small enough for suites that ask much of each case."""

PLANE = [name for name, case in FIELDS.items() if case.shape == (2,)]
CLOSED = [name for name, case in FIELDS.items() if hasattr(case.make(), "with_divergence")]


# --- divergences ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class DivergenceCase:
    """A divergence, and what may be expected of it."""

    divergence: Any
    exact: bool = False  # for every field over few enough dimensions
    up_to: int | None = None  # exact up to so many dimensions
    knows_norm: bool = True
    smooth: bool = True  # whether differentiating the estimate gives its own gradient

    def is_exact(self, dimension: int) -> bool:
        return self.exact or (self.up_to is not None and dimension <= self.up_to)


DIVERGENCES: dict[str, DivergenceCase] = {
    "closed": DivergenceCase(ClosedForm(), exact=True, knows_norm=False),
    "exact": DivergenceCase(ExactDivergence(), exact=True),
    "rademacher": DivergenceCase(Hutchinson()),
    "rademacher4": DivergenceCase(Hutchinson(samples=4)),
    "gaussian": DivergenceCase(Hutchinson("gaussian")),
    "hutch++3": DivergenceCase(HutchPlusPlus(3), up_to=1, smooth=False),
    "hutch++6": DivergenceCase(HutchPlusPlus(6, "gaussian"), up_to=2, smooth=False),
    "hutch++15": DivergenceCase(HutchPlusPlus(15), up_to=5, smooth=False),
}


ESTIMATED = ("planar4", "conditional", "hamiltonian", "images")
"""Fields on which the estimates are tried: they do not look inside."""


def pairs() -> list[tuple[str, str]]:
    """Fields with the divergences that they can have."""
    return [
        (field, divergence)
        for field in FIELDS
        for divergence, case in DIVERGENCES.items()
        if (field in CLOSED if divergence == "closed" else case.exact or field in ESTIMATED)
    ]


REGULARIZERS: dict[str, Callable[[float], Any]] = {
    "kinetic": KineticEnergy,
    "jacobian": JacobianNorm,
}

ADJOINTS: dict[str, Any] = {
    "checkpointed": None,  # the default
    "no_graphs": ic.Checkpointed(graph_budget=0),
    "slots1": ic.Checkpointed(slots=1),
    "direct": ic.Direct(),
    "backsolve": ic.Backsolve(),
}


# --- bases ---------------------------------------------------------------------------------------


class Learnt(nn.Module):
    """A base with parameters: a normal of learnt mean and scale."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.linspace(-0.4, 0.7, math.prod(shape)).view(*shape))
        self.log_scale = nn.Parameter(torch.linspace(0.2, -0.3, math.prod(shape)).view(*shape))

    def forward(self) -> Distribution:
        normal = torch.distributions.Normal(self.mean, self.log_scale.exp())
        return torch.distributions.Independent(normal, self.mean.ndim)


# --- numbers -------------------------------------------------------------------------------------


def slope(function: Callable[[float], Tensor], eps: float = 1e-3) -> Tensor:
    """Derivative at 0 by central differences on five points: an error of O(eps^4)."""
    with torch.no_grad():
        near = function(eps) - function(-eps)
        far = function(2 * eps) - function(-2 * eps)
    return (8 * near - far) / (12 * eps)


def jacobian(function: Callable[[Tensor], Tensor], z: Tensor, eps: float = 1e-3) -> Tensor:
    """Of one sample's map at `z`, by central differences: shape (outputs, inputs).

    `function` maps batches, and is called once with a batch of all shifted points.
    """
    units = torch.eye(z.numel(), dtype=z.dtype).view(-1, *z.shape)
    shifts = torch.cat([h * eps * units for h in (1, -1, 2, -2)])
    with torch.no_grad():
        near, back, far, farther = function(z + shifts).flatten(1).chunk(4)
    return ((8 * (near - back) - (far - farther)) / (12 * eps)).t()


def directional(
    function: Callable[[], Tensor], tensors: Sequence[Tensor], directions: Sequence[Tensor]
) -> Tensor:
    """Derivative of `function`, which reads `tensors`, along `directions`."""

    def moved(h: float) -> Tensor:
        with torch.no_grad():
            for tensor, direction in zip(tensors, directions, strict=True):
                tensor.add_(direction, alpha=h)
            value = function()
            for tensor, direction in zip(tensors, directions, strict=True):
                tensor.sub_(direction, alpha=h)
        return value

    return slope(moved)


def grid(low: Sequence[float], high: Sequence[float], count: int) -> tuple[Tensor, float]:
    """Points of a rectangle, shape (count^2, 2), and the area that each stands for."""
    axes = [torch.linspace(a, b, count, dtype=DTYPE) for a, b in zip(low, high, strict=True)]
    area = math.prod(float(axis[1] - axis[0]) for axis in axes)
    return torch.cartesian_prod(*axes), area


def agrees(values: Tensor, expected: float | Tensor, sigmas: float = 5.0) -> bool:
    """Whether the mean of independent `values` (along axis 0) is `expected`, within its error."""
    error = values.std(0) / math.sqrt(len(values))
    return bool(((values.mean(0) - expected).abs() <= sigmas * error + 1e-12).all())
