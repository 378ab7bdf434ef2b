"""A solver around another one, for those who want to look on or to keep what it does."""

from __future__ import annotations

from .base import Solver

__all__ = ["WrappedSolver", "proper"]


class WrappedSolver:
    """Says of itself what the solver proper says. A subclass binds it."""

    def __init__(self, solver: Solver) -> None:
        self.solver = solver

    @property
    def name(self) -> str:
        """Name of the solver proper."""
        return self.solver.name

    @property
    def reference(self) -> str:
        """Source of the solver proper."""
        return self.solver.reference

    @property
    def order(self) -> int:
        """Order of the solution."""
        return self.solver.order

    @property
    def dense_order(self) -> int:
        """q, where the interpolant of one step errs by O(h^(q + 1))."""
        return self.solver.dense_order

    @property
    def error_order(self) -> int:
        """k, where the error estimate of one step is O(h^k)."""
        return self.solver.error_order

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error."""
        return self.solver.adaptive

    @property
    def evaluations_per_step(self) -> int:
        """Evaluations of the field that an accepted step costs."""
        return self.solver.evaluations_per_step


def proper(solver: Solver | None) -> Solver | None:
    """The solver proper: what its wrappers hold besides it is no business of the method's."""
    while isinstance(solver, WrappedSolver):
        solver = solver.solver
    return solver
