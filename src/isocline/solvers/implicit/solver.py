"""The solver class of every implicit table of coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...state import Packing
from ..base import Field
from .stepper import ImplicitStepper
from .tableau import ImplicitTableau
from .tables import IMPLICIT_TABLEAUS

__all__ = ["IMPLICIT", "ImplicitRungeKutta"]


@dataclass(frozen=True, slots=True)
class ImplicitRungeKutta:
    """An implicit Runge-Kutta method with constant steps. The subclass of each table names it."""

    coefficients: ClassVar[ImplicitTableau]

    @property
    def name(self) -> str:
        """Name of the table."""
        return self.coefficients.name

    @property
    def reference(self) -> str:
        """Source of the table."""
        return self.coefficients.reference

    @property
    def order(self) -> int:
        """Order of the solution."""
        return self.coefficients.order

    @property
    def dense_order(self) -> int:
        """q, where the interpolant of one step errs by O(h^(q + 1))."""
        return self.coefficients.dense_order

    @property
    def error_order(self) -> int:
        """0: there is no error estimate."""
        return 0

    @property
    def adaptive(self) -> bool:
        """Steps are constant."""
        return False

    @property
    def evaluations_per_step(self) -> int:
        """Evaluations of the field in a step, where it is linear in a state of two numbers."""
        return self.coefficients.evaluations_per_step

    def bind(self, field: Field, packing: Packing) -> ImplicitStepper:
        """The method bound to the packed `field`."""
        return ImplicitStepper(self.coefficients, field, packing)


def _implicit(tableau: ImplicitTableau) -> type[ImplicitRungeKutta]:
    doc = f"{tableau.name}, order {tableau.order}, {tableau.stages} stages. {tableau.reference}"
    body = {
        "coefficients": tableau,
        "__doc__": doc,
        "__slots__": (),
        "__module__": "isocline.solvers",
    }
    return type(tableau.name, (ImplicitRungeKutta,), body)


IMPLICIT: dict[str, type[ImplicitRungeKutta]] = {
    name: _implicit(tableau) for name, tableau in IMPLICIT_TABLEAUS.items()
}
"""Implicit Runge-Kutta methods by lower-case name."""
