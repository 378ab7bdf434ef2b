"""How to draw samples with a budget: a method, and a number of evaluations or a grid of times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ...controllers import Constant
from ...errors import InputError, InputTypeError
from ...solvers import ExplicitRungeKutta, Solver
from ...validate import check_solver

__all__ = ["Sampler"]


@dataclass(frozen=True)
class Sampler:
    """Fixed steps, as generative models are sampled: a budget rather than a tolerance.

    Attributes:
        solver: an explicit Runge-Kutta method, or its name: "euler", "midpoint", "heun", "dopri5",
            "tsit5", ...
        nfe: at most so many evaluations of the field, in equal steps.
        times: ends of the steps between t0 and t1, in that order, instead.

    Raises:
        InputError: for another method; unless exactly one of `nfe` and `times` is given; if `nfe`
            does not pay for a single step, or `times` do not rise or fall strictly.
    """

    solver: str | Solver = "euler"
    nfe: int | None = None
    times: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if (self.nfe is None) == (self.times is None):
            given = "neither" if self.nfe is None else "both"
            raise InputError("nfe, times", given, "exactly one of them")
        solver = _check_solver(self.solver)
        if self.nfe is not None and not isinstance(self.nfe, int):
            raise InputTypeError("nfe", repr(self.nfe), "a whole number of evaluations")
        if self.nfe is not None and self._steps(solver, self.nfe) < 1:
            needed = _first_step(solver)
            raise InputError("nfe", str(self.nfe), f"at least {needed}, one step of {solver.name}")
        if self.times is not None:
            try:
                times = [float(t) for t in self.times]
            except (TypeError, ValueError):
                raise InputTypeError("times", repr(self.times), "a sequence of times") from None
            pairs = list(pairwise(times))
            if not (all(a < b for a, b in pairs) or all(a > b for a, b in pairs)):
                raise InputError(
                    "times", repr(list(self.times)), "times that rise or fall strictly"
                )

    def settings(self, t0: float, t1: float) -> dict[str, Any]:
        """What to hand to `solve` for this."""
        solver, span = _check_solver(self.solver), abs(t1 - t0)
        if span == 0:
            return {"solver": solver, "dt0": 1.0, "controller": Constant()}
        if self.times is not None:
            ahead = [(t - t0) * (1 if t1 > t0 else -1) for t in self.times]
            if not all(0 <= a <= span for a in ahead) or ahead != sorted(ahead):
                way = f"times between {t0} and {t1}, in that order"
                raise InputError("times", repr(list(self.times)), way)
            return {"solver": solver, "dt0": span, "controller": Constant(stops=tuple(self.times))}
        assert self.nfe is not None
        return {
            "solver": solver,
            "dt0": span / self._steps(solver, self.nfe),
            "controller": Constant(),
        }

    @staticmethod
    def _steps(solver: ExplicitRungeKutta, nfe: int) -> int:
        """How many steps the budget pays for; the first may cost one evaluation more."""
        extra = _first_step(solver) - solver.evaluations_per_step
        return (nfe - extra) // solver.evaluations_per_step


def _first_step(solver: ExplicitRungeKutta) -> int:
    return solver.tableau.stages


def _check_solver(given: str | Solver) -> ExplicitRungeKutta:
    """The solver, if what its steps cost is known before they are taken."""
    solver = check_solver(given)
    if not isinstance(solver, ExplicitRungeKutta):
        raise InputError(
            "solver",
            solver.name,
            "an explicit Runge-Kutta method, whose steps all cost the same",
        )
    return solver
