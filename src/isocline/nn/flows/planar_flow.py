"""Discrete planar flows (Rezende and Mohamed 2015): what the continuous ones are compared with."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Size, Tensor, nn

from ...errors import InputError
from .base import Base, StandardNormal, base_of
from .cnf import Flowed

__all__ = ["PlanarFlow"]

_SLOPE = 1e-3
"""Least slope of a layer along w, where rounding would leave none."""

Direction = Literal["data-to-base", "base-to-data"]


class PlanarFlow(nn.Module):
    """Layers z + u tanh(w^T z + b), each an invertible map of one hidden unit.

    A layer has no inverse in closed form, so the flow serves one purpose or the other: as a map
    from data to base its density can be evaluated, to fit it to samples; as a map from base to
    data it can be sampled, to fit it to a density (Chen et al. 2018, sections 4.1 and 4.2).

    Args:
        features: Dimension of z.
        layers: Number of layers, K.
        direction: Which way the layers map.
        base: As for `CNF`.

    Raises:
        InputError: If a size is not positive or the direction unknown.
    """

    def __init__(
        self,
        features: int,
        layers: int,
        *,
        direction: Direction = "data-to-base",
        base: Base | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("features", features), ("layers", layers)):
            if value < 1:
                raise InputError(name, str(value), "at least 1")
        if direction not in get_args(Direction):
            choices = " or ".join(map(repr, get_args(Direction)))
            raise InputError("direction", repr(direction), choices)
        self.shape = Size([features])
        self.direction = direction
        self.base = StandardNormal(self.shape) if base is None else base
        # Of order one, so that the layers start out different: on the two circles 64 layers that
        # start small end 0.4 nats worse after as many iterations.
        self.weight = nn.Parameter(torch.randn(layers, features))
        self.scale = nn.Parameter(torch.randn(layers, features))
        self.bias = nn.Parameter(torch.randn(layers))

    def forward(self, z: Tensor) -> Flowed:
        """Through all layers, in the flow's direction: states (..., features), and log |det|."""
        if z.ndim < 1 or z.shape[-1:] != self.shape:
            raise InputError("z", f"shape {tuple(z.shape)}", f"shape (..., {self.shape[0]})")
        along, scale = self._invertible()
        log_det = z.new_zeros(z.shape[:-1])
        for w, u, b, slope in zip(self.weight, scale, self.bias, along, strict=True):
            active = torch.tanh(z @ w + b)
            log_det = log_det + torch.log1p((1.0 - active.square()) * slope)
            z = torch.addcmul(z, active.unsqueeze(-1), u)
        return Flowed(z, log_det)

    def _invertible(self) -> tuple[Tensor, Tensor]:
        """w^T u of each layer, and u, changed along w so that w^T u > -1 (their appendix A.1)."""
        inner = (self.weight * self.scale).sum(1)
        # softplus underflows where `inner` is far below zero; the map must keep some slope there.
        along = F.softplus(inner).clamp(min=_SLOPE) - 1.0
        length = self.weight.square().sum(1).clamp(min=torch.finfo(inner.dtype).tiny ** 0.5)
        scale = self.scale + ((along - inner) / length).unsqueeze(1) * self.weight
        return along, scale

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of `x` in nats, shape (...,); for flows from data to base.

        Raises:
            InputError: for a flow from base to data, which cannot be inverted in closed form.
        """
        self._require("data-to-base", "evaluate the density of")
        z, log_det = self(x)
        log_density: Tensor = base_of(self.base, self.shape).log_prob(z) + log_det
        return log_density

    def rsample_and_log_prob(self, n: int) -> tuple[Tensor, Tensor]:
        """Samples (n, features) that carry gradients, and their log densities; from base to data.

        Raises:
            InputError: for a flow from data to base.
        """
        self._require("base-to-data", "sample")
        base = base_of(self.base, self.shape)
        z = base.rsample(Size([n]))
        x, log_det = self(z)
        return x, base.log_prob(z) - log_det

    def sample(self, n: int) -> Tensor:
        """Samples (n, features), without a gradient; from base to data."""
        with torch.no_grad():
            return self.rsample_and_log_prob(n)[0]

    def _require(self, direction: Direction, purpose: str) -> None:
        if self.direction != direction:
            raise InputError(
                "direction", repr(self.direction), f"{direction!r} to {purpose} a planar flow"
            )
