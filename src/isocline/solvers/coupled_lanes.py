"""Steps of reversible methods where each lane has a time and a length of its own.

The formulas are those of `reversible`. A lane carries y and z side by side, as a row twice as wide
as a state: what moves rows about, when lanes leave or try again, need not know what is in them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .lanes import ExplicitLanes, LaneExtension, LaneSlope, LaneStep
from .tableau import Tableau

__all__ = ["CoupledLanes"]


class CoupledLanes:
    """Takes steps of McCallum and Foster's method for many lanes; see `LaneMethod`.

    Args:
        tableau: of the base method.
        coupling: lambda.
        dtype, device: of the states.
    """

    copies = 2
    hands_on = False

    def __init__(
        self, tableau: Tableau, coupling: float, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.coupling = coupling
        # Two, since a step's stages last only until its stepper's next step, and the interpolant
        # wants those of the first.
        self.ahead = ExplicitLanes(tableau, dtype, device)
        self.behind = ExplicitLanes(tableau, dtype, device)
        self.time_dtype = self.ahead.time_dtype
        self.combine: Callable[..., Tensor] | None = self.ahead.combine

    @property
    def degree(self) -> int:
        """Of the polynomial that the interpolant of a step is: the base method's."""
        return self.ahead.degree

    def step(
        self,
        field: LaneSlope,
        t: Tensor,
        t_next: Tensor,
        y: Tensor,
        first: Tensor | None,
        *,
        estimate: bool = True,
    ) -> LaneStep:
        """One step of each lane; see `LaneStepper`.

        `first` is the field at (t, z). What is added to the error of the base method is argued for
        in `CoupledStepper.step`.
        """
        y0, z0 = _halves(y)
        base = self.ahead.step(field, t, t_next, z0, first, estimate=estimate)
        # lambda y + (1 - lambda) z + Psi, where z + Psi is the end of the base method's step.
        y1 = torch.add(base.y1, y0 - z0, alpha=self.coupling)
        z1 = z0 - (self._back(field, t, t_next, y1) - y1)
        errors = base.errors
        if errors:
            lost = torch.sub((y0 - z0) * self.coupling, y1 - z1).detach()
            errors = tuple(error + lost for error in errors)
        return CoupledLaneStep(torch.cat([y1, z1], 1), errors, base, y0, z0, self.coupling)

    def back(self, field: LaneSlope, t: Tensor, t_next: Tensor, end: Tensor) -> Tensor:
        """What steps from t to `t_next` started from.

        Args:
            field: for these lanes.
            t, t_next: where the steps began and ended, shape (lanes,).
            end: their `y1`, shape (lanes, 2 width).
        """
        y1, z1 = _halves(end)
        z0 = z1 + (self._back(field, t, t_next, y1) - y1)
        ahead = self.ahead.step(field, t, t_next, z0, None, estimate=False).y1
        y0 = z0 + (y1 - ahead) / self.coupling
        return torch.cat([y0, z0], 1)

    def _back(self, field: LaneSlope, t: Tensor, t_next: Tensor, y1: Tensor) -> Tensor:
        """Where steps of the base method lead from y1 at `t_next` back to t."""
        return self.behind.step(field, t_next, t, y1, None, estimate=False).y1


def _halves(carried: Tensor) -> tuple[Tensor, Tensor]:
    """The states y and z, each laid out as a state is that stands alone."""
    width = carried.shape[1] // 2
    return carried[:, :width].contiguous(), carried[:, width:].contiguous()


@dataclass(slots=True)
class CoupledLaneStep:
    """A step of each lane that still holds the base method's step from z.

    Attributes:
        y1: both states at the ends, shape (lanes, 2 width).
        errors: of the states.
        base: the base method's step.
        y0, z0: both states at the starts.
        coupling: lambda.
    """

    y1: Tensor
    errors: tuple[Tensor, ...]
    base: LaneStep
    y0: Tensor
    z0: Tensor
    coupling: float

    @property
    def first(self) -> Tensor:
        """The field at the starts, at z."""
        return self.base.first

    @property
    def last(self) -> None:
        """Neither of the next base steps starts where one of these ended."""
        return None

    def at(self, owners: Tensor, times: Tensor) -> Tensor:
        """States between the ends, from the method's interpolant."""
        lanes, places = owners.unique(return_inverse=True)
        return self.extension(lanes).at(places, times)

    def extension(self, lanes: Tensor) -> LaneExtension:
        """The base method's, and what draws y to z: continuous, and as accurate.

        y(t + theta h) = y + theta (1 - lambda) (z - y) + h sum_j b_j(theta) k_j.
        """
        found = self.base.extension(lanes)
        y0, z0 = self.y0.index_select(0, lanes), self.z0.index_select(0, lanes)
        linear = torch.zeros_like(found.weights[:1])
        linear[0, 0] = 1.0
        return replace(
            found,
            y0=y0,
            slopes=[*found.slopes, (z0 - y0) * (1 - self.coupling)],
            weights=torch.cat([found.weights, linear]),
        )
