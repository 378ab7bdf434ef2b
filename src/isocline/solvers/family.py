"""The explicit family: a solver class for every table of coefficients."""

from __future__ import annotations

from .explicit import ExplicitRungeKutta, explicit
from .tableaus import TABLEAUS

__all__ = ["EXPLICIT"]

EXPLICIT: dict[str, type[ExplicitRungeKutta]] = {
    name: explicit(tableau) for name, tableau in TABLEAUS.items()
}
"""Explicit Runge-Kutta methods by lower-case name."""
