"""Which methods take steps of many lanes, and what the loop asks of them besides."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from ..errors import InputError
from .alf import ALF
from .base import Solver
from .coupled_lanes import CoupledLanes
from .explicit import ExplicitRungeKutta
from .lanes import ExplicitLanes, LaneStepper
from .reversible import Reversible
from .symplectic import Splitting

__all__ = ["InLanes", "LaneMethod", "explicit_lanes", "lane_stepper"]


class LaneMethod(LaneStepper, Protocol):
    """A method as it is before an adjoint takes its steps in hand."""

    @property
    def copies(self) -> int:
        """How many states a lane carries side by side. At a start each of them is y0."""

    @property
    def degree(self) -> int:
        """Of the polynomial that the interpolant of a step is."""

    @property
    def hands_on(self) -> bool:
        """Whether a step finds the slope that the next one starts with."""


@runtime_checkable
class InLanes(Protocol):
    """A solver that stands in for a method, and says which that is for many lanes."""

    def in_lanes(self) -> LaneMethod:
        """The method."""


def lane_stepper(solver: Solver, dtype: torch.dtype, device: torch.device) -> LaneMethod:
    """The method, for steps of many lanes.

    Raises:
        InputError: for a method that has no such steps.
    """
    if isinstance(solver, InLanes):
        return solver.in_lanes()
    if isinstance(solver, Reversible):
        return CoupledLanes(solver.base.tableau, solver.coupling, dtype, device)
    return explicit_lanes("solver", solver, dtype, device)


def explicit_lanes(
    argument: str, solver: Solver, dtype: torch.dtype, device: torch.device
) -> ExplicitLanes:
    """An explicit Runge-Kutta method, for steps of many lanes.

    Raises:
        InputError: for another method; it names the `argument`.
    """
    if not isinstance(solver, ExplicitRungeKutta):
        hint = 'Other methods step jointly: leave `stepping` at "joint".'
        if isinstance(solver, (ALF, Splitting)) and argument == "solver":
            hint += ' To step back by samples, under StepBack, take `Reversible("bosh3")`, say.'
        raise InputError(
            argument,
            f'{getattr(solver, "name", type(solver).__name__)} with stepping="per_sample"',
            "an explicit Runge-Kutta method, such as Tsit5, Dopri5 or Vern7"
            + (", or Reversible over one" if argument == "solver" else ""),
            hint,
        )
    return ExplicitLanes(solver.tableau, dtype, device)
